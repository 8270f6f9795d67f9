"""One object that is to leave, and the check that it still is what was committed."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import DeliveryRefused, DeliveryRetry

_PIECE_BYTES = 128 * 1024
"""Small, so that the destination is busy with one piece while the next one is read and summed."""

_LONG_LENGTH = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""Value representations whose length has four bytes, after two that are reserved (PS3.5 section 7.1.2)."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A Part 10 file (PS3.10) in the spool, with what the journal knows of it.

    Attributes
    ----------
    path
        The file; only read.
    kind
        ``sr``, ``seg``, ``sc``, or ``image`` for one that was received.
    bytes, sha256
        Size of the whole file and SHA-256 (hex) of it, or of its data set alone, when it was committed.
    """

    path: Path
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    bytes: int
    sha256: str
    sums_data_set_only: bool = False

    def read(self) -> Iterator[memoryview]:
        """Read the file once: first its head (preamble and file meta information), then the data set in pieces.

        The last piece comes only after all bytes were found to be the committed ones. So who sends or writes while
        reading, and gives up when this raises, never lets a damaged object out whole.

        Raises
        ------
        DeliveryRefused
            The file is gone, is not DICOM, or its bytes are not the committed ones: what reaches a PACS is what was
            committed.
        DeliveryRetry
            It cannot be read now.
        """
        try:
            with self.path.open("rb", buffering=0) as stream:
                if (size := os.fstat(stream.fileno()).st_size) != self.bytes:
                    raise self._changed(f"{size} bytes", f"{self.bytes} bytes")
                first = memoryview(stream.read(_PIECE_BYTES))
                offset = _data_set_offset(first)
                yield first[:offset]
                digest = hashlib.sha256(b"" if self.sums_data_set_only else first[:offset])
                last = first[offset:]
                while piece := stream.read(_PIECE_BYTES):
                    yield last
                    digest.update(last)  # while the destination is busy with it
                    last = memoryview(piece)
                digest.update(last)
        except FileNotFoundError as error:
            if self.kind == "image":
                # After a power failure the place of an image may be missing until the receiver has started, too.
                raise DeliveryRetry(
                    "the file of the image is not in the spool",
                    mend="The receiver puts it back when it starts; if it does not, restore the spool",
                ) from error
            raise DeliveryRefused(
                f"the file of the {self._noun} is gone from the spool",
                mend=f"{self._anew}, or restore the spool; then: appliance requeue",
            ) from error
        except OSError as error:
            raise unreadable(error) from error
        if digest.hexdigest() != self.sha256:
            raise self._changed(f"SHA-256 {digest.hexdigest()[:12]}…", f"SHA-256 {self.sha256[:12]}…")
        yield last

    def _changed(self, found: str, expected: str) -> DeliveryRefused:
        return DeliveryRefused(
            f"the file of the {self._noun} was changed after it was committed",
            found=found,
            expected=expected,
            mend=f"Check the disk. {self._anew}, or restore the spool; then: appliance requeue",
        )

    @property
    def _noun(self) -> str:
        return "image" if self.kind == "image" else "result"

    @property
    def _anew(self) -> str:
        return "Send the image from its source" if self.kind == "image" else "Run the job again"


def unreadable(error: OSError) -> DeliveryRetry:
    """The error of a spool file that cannot be read."""
    return DeliveryRetry(
        "the file of the object cannot be read",
        found=error.strerror or type(error).__name__,
        mend="Check the disk, and that the spool belongs to the user of the appliance",
    )


def malformed(error: Exception | None = None) -> DeliveryRefused:
    """The error of a file that is as it was committed and still cannot be sent."""
    return DeliveryRefused(
        "the file of the object is not a DICOM file that can be sent",
        found=None if error is None else type(error).__name__,
        mend="Report it, with the model's name if it is a result; the file is in the spool",
    )


def _data_set_offset(head: memoryview) -> int:
    """Where the data set begins: after group 0002, always in Explicit VR Little Endian (PS3.10 section 7.1).

    The group's length is not relied on: files that came through the drop folder may lack it.
    """
    if bytes(head[128:132]) != b"DICM":
        raise malformed()
    position = 132
    while bytes(head[position : position + 2]) == b"\x02\x00":
        if bytes(head[position + 4 : position + 6]) in _LONG_LENGTH:
            form, start = "<L", position + 8
        else:
            form, start = "<H", position + 6
        try:
            (length,) = struct.unpack_from(form, head, start)
        except struct.error as error:
            raise malformed(error) from error
        position = start + struct.calcsize(form) + length
    if position > len(head):
        raise malformed()
    return position
