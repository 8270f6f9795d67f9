"""Making files and folders survive power loss.

A file is durable when its bytes are on the disk (``fsync`` of the file) *and* its name is (``fsync`` of the folder
that holds it). An ``fsync`` that fails is fatal to the promise: the kernel may have dropped the pages, so trying
again would report success for lost data. Errors are therefore raised, never retried.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)


class SyncFailed(OSError):
    """The disk did not take what it was given, and it was not full: nothing that is on its way there can be relied on.

    The role ends, and is started again on what really is on the disk.
    """


def sync(descriptor: int) -> None:
    """Bring the bytes of an open file, or the names in an open folder, to the disk.

    Raises
    ------
    SyncFailed
        The disk failed.
    OSError
        It is full.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise SyncFailed(error.errno, error.strerror) from error


def fsync_file(path: Path) -> None:
    """Bring the bytes of a file to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def ensure_folder(path: Path) -> None:
    """Make a folder with its parents, each name durable; an existing folder costs one ``stat``."""
    if path.is_dir():
        return
    ensure_folder(path.parent)
    path.mkdir(exist_ok=True)
    fsync_folder(path.parent)


def rename_into(source: Path, target: Path) -> None:
    """Give a file its name in a folder that is made if need be; not durable by itself.

    An empty folder may be removed (``retention``) just when a file is to come into it: then it is made once more.
    """
    try:
        ensure_folder(target.parent)
        source.rename(target)
    except FileNotFoundError:
        ensure_folder(target.parent)
        source.rename(target)


def move_into_place(source: Path, target: Path) -> None:
    """Give a file, whose bytes are already durable, its final name, durably and in one step.

    Both lie on one filesystem. An existing ``target`` is replaced.
    """
    ensure_folder(target.parent)
    source.rename(target)
    fsync_folder(target.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Write a whole file so that after a crash it is either absent (or the old one) or complete."""
    ensure_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            sync(stream.fileno())
        move_into_place(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk litter is the last thing that is needed
        raise
