"""Marks of arrivals: which acknowledged instances the journal could still lose.

A promise has to be on the disk. The file of an instance is, and beside it its mark: a second name of the same file, in
a folder of its own, which says where it came from and when. With these the journal need not be on the disk at the same
moment; it follows a little later, for many instances at once, and the marks go. What a power failure takes from the
journal in between is put back at the next start, from the marks.

One flush of the disk is then enough for each instance, where the file, its folder and the journal need three.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ConfigurationError
from appliance.spool.durable import ensure_folder, fsync_file, fsync_folder
from appliance.spool.group_sync import GroupSync

_SYNCERS = 8
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""How file systems say that a file has one name only (link(2))."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a mark says.

    Attributes
    ----------
    mark
        The file, by its second name.
    received_at
        When its last byte arrived, in seconds since 1970.
    """

    mark: Path
    source: str
    received_at: float


class Arrivals:
    """The folder of marks; usable from any thread."""

    def __init__(self, folder: Path) -> None:
        ensure_folder(folder)
        self._folder = folder
        self._names = GroupSync(folder)
        self._numbers = itertools.count()
        self._syncers = ThreadPoolExecutor(_SYNCERS, thread_name_prefix="sync")
        self._lock = threading.Lock()
        self._marks: list[Path] = []

    def require_links(self) -> None:
        """Make sure that the file system can give a file two names, before any image relies on it.

        Raises
        ------
        ConfigurationError
            It cannot, as on FAT and on some network mounts.
        """
        probe = self._folder / f".probe-{os.getpid()}"
        second = probe.with_name(f"{probe.name}-link")
        try:
            probe.touch()
            os.link(probe, second)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                return  # a full disk, say: reception has its own words for that, and goes on when it has passed
            raise ConfigurationError(
                "images cannot be taken in on the file system of the state folder",
                found=error.strerror,
                expected="hard links",
                mend="Put state_dir on a local file system such as ext4 or XFS",
            ) from error
        finally:
            for path in (probe, second):
                path.unlink(missing_ok=True)

    def move(self, incoming: Path, target: Path, source: str, received_at: float) -> Path:
        """Move a file to its place; when this returns, its bytes, its name and its mark are on the disk.

        The mark stays until it is given to ``follow``. When this raises, the file is gone.

        Raises
        ------
        OSError
            The disk failed, or is full.
        """
        ensure_folder(target.parent)
        mark = self._folder / f"{received_at:.6f}-{source}-{os.getpid()}-{next(self._numbers)}.dcm"
        os.link(incoming, mark)
        try:
            incoming.rename(target)
            # At the same time: the kernel joins flushes of one disk, and each of them alone takes as long as all.
            others = [self._syncers.submit(fsync_folder, target.parent), self._syncers.submit(self._names.wait)]
            try:
                fsync_file(target)
            finally:
                for other in others:
                    other.result()
        except OSError:
            target.unlink(missing_ok=True)
            mark.unlink(missing_ok=True)
            raise
        return mark

    def restore(self, mark: Path, target: Path) -> None:
        """Give a file that has its mark its place as well, durably."""
        ensure_folder(target.parent)
        if not (target.exists() and target.samefile(mark)):
            target.unlink(missing_ok=True)
            os.link(mark, target)
        fsync_folder(target.parent)

    def follow(self, mark: Path) -> None:
        """Note that the journal has the instance, though perhaps not yet on the disk."""
        with self._lock:
            self._marks.append(mark)

    def take(self) -> list[Path]:
        """The marks whose instances the journal has; the caller sees to the disk, then removes them."""
        with self._lock:
            marks, self._marks = self._marks, []
        return marks

    def left(self) -> Iterator[Arrival]:
        """What an earlier life left, the oldest first."""
        for mark in sorted(self._folder.iterdir(), key=lambda path: path.name):
            received_at, _, rest = mark.name.partition("-")
            try:
                yield Arrival(mark, rest.partition("-")[0], float(received_at))
            except ValueError:
                continue  # not ours
