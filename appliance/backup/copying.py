"""Copies of files, with their checksums."""

from __future__ import annotations

import ctypes
import hashlib
import os
from pathlib import Path

_BLOCK_BYTES = 1024 * 1024


def copy(source: Path, target: Path) -> str:
    """Copy a file with its time and mode; return its SHA-256 in hexadecimal digits.

    The copy gets its name when it is whole. It is on the disk after ``sync``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    digest = hashlib.sha256()
    partial.unlink(missing_ok=True)  # of a copy that was cut short; it may be read-only
    with source.open("rb") as reading, partial.open("wb") as writing:
        while block := reading.read(_BLOCK_BYTES):
            digest.update(block)
            writing.write(block)
        status = os.fstat(reading.fileno())
        writing.flush()
        os.utime(writing.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fchmod(writing.fileno(), status.st_mode & 0o777)
    partial.replace(target)
    return digest.hexdigest()


def sync(folder: Path) -> None:
    """Bring all that was written to the file system of a folder to the disk.

    Raises
    ------
    OSError
        The disk failed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)
