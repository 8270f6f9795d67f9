"""Zip archives from the drop folder: checked before anything is unpacked, read member by member."""

from __future__ import annotations

import errno
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO, Final

from appliance.errors import RejectedInput

_MAX_DIRECTORY_BYTES: Final = 32 * 1024 * 1024
"""Largest central directory: it is read into memory as a whole (about 300,000 members)."""
_MAX_GROWTH: Final = 200
"""An archive that unpacks to more times its size is a bomb: zeros are packed a thousandfold, members may overlap, and
images shrink to a half or a third, masks to a fiftieth."""
_GROWTH_MATTERS_BYTES: Final = 64 * 1024 * 1024
_END_RECORD: Final = b"PK\x05\x06"
_BLOCK_BYTES: Final = 1024 * 1024


def is_archive(start: bytes) -> bool:
    """Say whether a file that starts with these (at least 132) bytes is a zip archive, and not DICOM."""
    return start[:4] in (b"PK\x03\x04", _END_RECORD) and start[128:132] != b"DICM"


def damaged(found: str) -> RejectedInput:
    """The error of an archive that cannot be read to its end."""
    return RejectedInput(
        "damaged-archive",
        "the archive is damaged",
        found=found,
        expected="a zip file, stored or deflated",
        mend="Pack it again",
    )


class Archive:
    """The members of a zip file that may be images. Their names are never used as paths.

    Parameters
    ----------
    stream
        The file; it stays the caller's.
    max_bytes
        Largest unpacked size of all members together.
    max_member_bytes
        Largest unpacked size of one.

    Raises
    ------
    RejectedInput
        ``damaged-archive``, ``encrypted-archive``, ``empty-archive`` or ``archive-too-big``.
    """

    def __init__(self, stream: BinaryIO, *, max_bytes: int, max_member_bytes: int) -> None:
        size = _check_directory_size(stream)
        with _reading():
            self._zip = zipfile.ZipFile(stream)
        self.members = [info for info in self._zip.infolist() if _may_be_image(info)]
        self._check(size, max_bytes, max_member_bytes)

    def _check(self, size: int, max_bytes: int, max_member_bytes: int) -> None:
        if not self.members:
            raise RejectedInput("empty-archive", "the archive holds no files", mend="Pack it again")
        for info in self.members:
            if info.flag_bits & 0x1:
                raise RejectedInput("encrypted-archive", "the archive is encrypted", mend="Pack it without a password")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise damaged(f"compression method {info.compress_type}")
        largest = max(info.file_size for info in self.members)
        total = sum(info.file_size for info in self.members)
        if total > max_bytes or largest > max_member_bytes:
            raise RejectedInput(
                "archive-too-big",
                "the archive would unpack to more than what is taken",
                found=f"{total >> 20} MiB, largest member {largest >> 20} MiB",
                expected=f"{max_bytes >> 20} MiB (dropfolder.max_archive_bytes), "
                f"members {max_member_bytes >> 20} MiB (dicom.max_instance_bytes)",
                mend="Pack it in parts",
            )
        if total > max(_GROWTH_MATTERS_BYTES, _MAX_GROWTH * size):
            raise RejectedInput(
                "archive-too-big",
                "the archive would unpack to a great many times its size, as no images do",
                found=f"{total >> 20} MiB out of {size >> 10} KiB",
                expected=f"at most {_MAX_GROWTH} times as much",
                mend="Drop the files without packing them if they are genuine",
            )

    def unpack(self, info: zipfile.ZipInfo, write: Callable[[bytes], object]) -> None:
        """Give the content of one member to ``write``, piece by piece; its checksum is verified.

        Raises
        ------
        RejectedInput
            ``damaged-archive``.
        """
        # zipfile stops at the declared size, which has been checked: a member cannot unpack to more than it said.
        with _reading():
            member = self._zip.open(info)
        with member:
            while True:
                with _reading():
                    block = member.read(_BLOCK_BYTES)
                if not block:
                    break
                write(block)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever damaged bytes raise in the library's reader
        # Of the disk's errors, this one is the archive's: an offset before the start of the file.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise damaged(type(error).__name__) from error


def _may_be_image(info: zipfile.ZipInfo) -> bool:
    """Leave out folders, links, and what desktops add (``__MACOSX``, dot files)."""
    path = PurePosixPath(info.filename)
    return not (
        info.filename.endswith("/")  # ZipInfo.is_dir fails for a name of no characters
        or stat.S_ISLNK(info.external_attr >> 16)
        or path.name.startswith(".")
        or path.parts[:1] == ("__MACOSX",)
    )


def _check_directory_size(stream: BinaryIO) -> int:
    """Look at the end record before ``zipfile`` does, as that would read a directory of any size into memory.

    Returns
    -------
    Size of the archive in bytes.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 65536 - 22))
    tail = stream.read()
    at = tail.rfind(_END_RECORD)
    if at < 0 or len(tail) - at < 22:
        raise damaged("no end record")
    directory_bytes = struct.unpack_from("<I", tail, at + 12)[0]
    if directory_bytes == 0xFFFFFFFF:  # zip64: the true size is in a record of its own, right before
        at = tail.rfind(b"PK\x06\x06", 0, at)
        if at < 0 or len(tail) - at < 56:
            raise damaged("no zip64 end record")
        directory_bytes = struct.unpack_from("<Q", tail, at + 40)[0]
    if directory_bytes > _MAX_DIRECTORY_BYTES:
        raise RejectedInput(
            "archive-too-big",
            "the archive has too many members",
            found=f"a directory of {directory_bytes >> 20} MiB",
            expected=f"at most {_MAX_DIRECTORY_BYTES >> 20} MiB",
            mend="Pack it in parts",
        )
    return size
