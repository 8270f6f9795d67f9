"""The file that a data set is written to while it arrives."""

from __future__ import annotations

import hashlib
import os
from typing import Final

from appliance.errors import ApplianceError, RejectedInput, SpoolFull
from appliance.intake.pace import Pace
from appliance.spool.incoming import Incoming
from appliance.spool.spool import Spool

_HASHED_LATER: Final = 1024 * 1024
"""A data set up to this size is summed while the disk works; of a larger one the most while it arrives."""
_HASTEN_BYTES: Final = 2 * 1024 * 1024
"""How much of a large data set may wait in memory before the disk begins with it."""


class IncomingFile:
    """Takes the data set of one C-STORE request, piece by piece, straight into ``spool.incoming``.

    pynetdicom uses it as its own temporary file: ``name``, ``write``, ``file.flush`` and ``close`` are what the
    library calls. Nothing is buffered, so that the last piece is in the file before the request is handed on.

    ``write`` never raises, as that would end the library's reader thread and leave the peer without an answer: a
    failure is kept in ``failure``, what follows is discarded, and the request is answered with it at its end.

    Parameters
    ----------
    source
        How it comes, as the journal has it.
    head
        Preamble and file meta information to begin with.
    max_bytes
        Largest data set; a larger one makes ``overrun`` true and is discarded.
    pace
        How slowly it may come; a slower one does the same.

    Attributes
    ----------
    incoming
        The file; ``None`` when it could not be made.
    """

    def __init__(self, spool: Spool, source: str, head: bytes, max_bytes: int, pace: Pace) -> None:
        self.failure: ApplianceError | OSError | None = None
        self.overrun = False
        self.incoming: Incoming | None = None
        self._max_bytes = max_bytes
        self._progress = pace.start()
        self._head_bytes = len(head)
        self._received_bytes = self._hashed_bytes = self._hastened_bytes = 0
        self._digest = hashlib.sha256()
        try:
            spool.require_room()
            self.incoming = spool.incoming.new(source)
            self.incoming.write(head)
        except (SpoolFull, OSError) as error:
            self.fail(error)

    @property
    def name(self) -> str:
        """Path of the file, as the library has it."""
        return "" if self.incoming is None else str(self.incoming.path)

    @property
    def file(self) -> IncomingFile:
        """The library flushes ``file.file``; there is nothing to flush."""
        return self

    def data_set_sha256(self) -> str:
        """SHA-256 of what has been received, without the head, in hexadecimal digits."""
        self._catch_up()
        return self._digest.hexdigest()

    def flush(self) -> None:
        """Nothing is buffered."""

    def write(self, data: bytes | memoryview) -> None:
        """Take the next piece of the data set."""
        self._received_bytes += len(data)
        if self._received_bytes > self._max_bytes:
            self.overrun = True
            self.fail(
                RejectedInput(
                    "too-big",
                    "the data set is larger than what is taken",
                    found=f"more than {self._max_bytes >> 20} MiB",
                    expected="less (dicom.max_instance_bytes)",
                    mend="Raise the limit if the image is genuine",
                )
            )
        elif self._progress.too_slow(self._received_bytes):
            self.overrun = True
            self.fail(
                RejectedInput(
                    "too-slow",
                    "the data set arrives slower than it may",
                    found=f"{self._received_bytes} bytes so far",
                    expected="more per second (dicom.min_bytes_per_s)",
                    mend="Look at the sender and the network, or lower the limit",
                )
            )
        if self.failure is not None or self.incoming is None:
            return
        try:
            self.incoming.write(data)
            if self._received_bytes > _HASHED_LATER:
                self._catch_up()
            if self._received_bytes - self._hastened_bytes > _HASTEN_BYTES:
                self.incoming.hasten()
                self._hastened_bytes = self._received_bytes
        except OSError as error:
            self.fail(error)

    def _catch_up(self) -> None:
        """Sum what has been written and not been summed yet."""
        while self.incoming is not None and self._hashed_bytes < self._received_bytes:
            left = self._received_bytes - self._hashed_bytes
            block = os.pread(self.incoming.descriptor, left, self._head_bytes + self._hashed_bytes)
            if not block:
                break  # somebody cut the file: the scan of it says so
            self._digest.update(block)
            self._hashed_bytes += len(block)

    def fail(self, error: ApplianceError | OSError) -> None:
        """Discard what has come and what will; the first failure is the one that is kept."""
        if self.failure is None:
            self.failure = error
        self.discard()

    def close(self) -> None:
        """The last piece has come: the disk may begin."""
        if self.incoming is not None and self.failure is None:
            self.incoming.hasten()

    def discard(self) -> None:
        """Let go of the file, which is removed unless it is promised."""
        if self.incoming is not None:
            self.incoming.close()
