"""Files that are being received, and the promise that is given for each.

The file itself is the promise. Its name is on the disk before its first byte comes; when its last one has, the file is
marked as whole (nobody may write it any more) and brought to the disk with its bytes: one flush, after which its sender
may be answered. Its place in the spool is a second name of it. That name, and the journal, follow a little later, for
many instances at once; then the first name goes. What a power failure takes in between is put back at the next start.

One flush is then enough for each instance, where the file, its folder and the journal need three.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import stat
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.errors import ConfigurationError
from appliance.spool.durable import ensure_folder, fsync_folder, sync

_BEING_WRITTEN: Final = 0o600
_WHOLE: Final = 0o400
_READY_NAMES: Final = 64
"""How many empty files are made at once: their names cost one flush together."""
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""How file systems say that a file has one name only (link(2))."""
_SYNC_FILE_RANGE_WRITE: Final = 2


@dataclass(frozen=True, slots=True)
class Arrival:
    """A promised file that the journal may not have.

    Attributes
    ----------
    received_at
        When its last byte arrived, in seconds since 1970.
    """

    path: Path
    source: str
    received_at: float


class Incoming:
    """One file that is being received, open for writing and reading; used by one thread.

    Attributes
    ----------
    source
        How it came; kept in its name.
    """

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self.source = source
        self.descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._promised = False

    def write(self, data: bytes | memoryview) -> None:
        """Append; raises ``OSError`` as the disk does."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]

    def hasten(self) -> None:
        """Let the disk begin with what has been written, without waiting for it."""
        if _sync_file_range is not None:
            # Whatever it answers: ``promise`` waits for the disk, and says what it says.
            _sync_file_range(self.descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)

    def promise(self, received_at: float) -> None:
        """Mark the file as whole; when this returns it survives a power failure, under this name.

        Parameters
        ----------
        received_at
            In seconds since 1970; the file's time of modification is set to it.

        Raises
        ------
        OSError
            The disk failed (``SyncFailed``), or is full: nothing is promised.
        """
        nanoseconds = round(received_at * 1e9)
        os.utime(self.descriptor, ns=(nanoseconds, nanoseconds))
        os.fchmod(self.descriptor, _WHOLE)
        sync(self.descriptor)
        self._promised = True

    def withdraw(self) -> None:
        """Take the promise back, before anybody was told: ``close`` removes the file again."""
        self._promised = False

    def close(self) -> None:
        """Let go of the file: it stays if it is promised or has been moved away, and is removed otherwise."""
        if self.descriptor < 0:
            return
        os.close(self.descriptor)
        self.descriptor = -1
        if not self._promised:
            self.path.unlink(missing_ok=True)


class IncomingFolder:
    """The folder of these files; usable from any thread."""

    def __init__(self, folder: Path) -> None:
        ensure_folder(folder)
        self.folder = folder
        self._life = f"{time.time_ns():x}-{os.getpid()}"
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._ready: defaultdict[str, deque[Path]] = defaultdict(deque)
        self._placed: list[Path] = []
        self._places: set[str] = set()

    def require_links(self) -> None:
        """Make sure that the file system can give a file two names, before any image relies on it.

        Raises
        ------
        ConfigurationError
            It cannot, as on FAT and on some network mounts.
        """
        probe = self.folder / f".probe-{self._life}"
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

    def new(self, source: str) -> Incoming:
        """An empty file whose name is on the disk; the caller fills and closes it.

        Parameters
        ----------
        source
            ``dicom`` or ``dropfolder``; it comes back with ``left``.

        Raises
        ------
        OSError
            The disk failed, or is full.
        """
        with self._lock:
            ready = self._ready[source]
            if not ready:
                self._make_ready(source)
            path = ready.popleft()
        return Incoming(path, source)

    def prepare(self) -> None:
        """Make names before they are needed, for the sources that have needed some; raises as ``new`` does."""
        with self._lock:
            for source, ready in self._ready.items():
                if len(ready) < _READY_NAMES // 2:
                    self._make_ready(source)

    def _make_ready(self, source: str) -> None:
        made: list[Path] = []
        try:
            for _ in range(_READY_NAMES):
                path = self.folder / f"{source}-{self._life}-{next(self._numbers)}.dcm"
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _BEING_WRITTEN))
                made.append(path)
            fsync_folder(self.folder)
        except OSError:
            for path in made:
                path.unlink(missing_ok=True)
            raise
        self._ready[source].extend(made)

    def place(self, path: Path, target: Path) -> None:
        """Give a promised file its name in the spool, which is on the disk once ``finish`` has returned.

        Whatever has that name is replaced: a crash may have left it.
        """
        while True:
            try:
                os.link(path, target)
                break
            except FileExistsError:
                with suppress(FileNotFoundError):  # its deletion was under way, and is done now
                    if target.samefile(path):
                        break
                    target.unlink()
            except FileNotFoundError:
                self._make_folder(target.parent)
        with self._lock:
            self._places.add(str(target).rpartition("/")[0])

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            with suppress(FileNotFoundError):  # the folder above was empty, and was removed meanwhile
                folder.mkdir(exist_ok=True)
            with self._lock:
                self._places.add(str(folder.parent))

    def follow(self, path: Path) -> None:
        """Note that the journal has the instance, though perhaps not yet on the disk."""
        with self._lock:
            self._placed.append(path)

    def take(self) -> list[Path]:
        """The files whose instances the journal has; the caller brings it to the disk, then calls ``finish``."""
        with self._lock:
            placed, self._placed = self._placed, []
        return placed

    def finish(self, paths: list[Path]) -> None:
        """Bring the names that files have been given to the disk, and take the first names from these.

        Raises
        ------
        OSError
            The disk failed. The first names are still there, for the next start.
        """
        with self._lock:
            places, self._places = self._places, set()
        for folder in places:
            with suppress(FileNotFoundError):  # removed meanwhile, with all that was in it
                fsync_folder(Path(folder))
        for path in paths:
            path.unlink(missing_ok=True)

    def left(self) -> Iterator[Arrival]:
        """What an earlier life promised and did not finish, the oldest first."""
        found = [(path, status) for path, status in self._files() if _is_whole(status)]
        for path, status in sorted(found, key=lambda entry: entry[1].st_mtime_ns):
            yield Arrival(path, path.name.partition("-")[0], status.st_mtime_ns / 1e9)

    def sweep(self) -> int:
        """Remove what was never promised; return how many files had content. Only at start, before anything comes."""
        swept = 0
        for path, status in self._files():
            if not _is_whole(status):
                path.unlink(missing_ok=True)
                swept += status.st_size > 0
        return swept

    def close(self) -> None:
        """Remove the files that were made and not needed; nothing is received afterwards."""
        with self._lock:
            for ready in self._ready.values():
                while ready:
                    ready.pop().unlink(missing_ok=True)

    def take_in(self, path: Path) -> None:
        """Let a file of the spool, whose bytes are on the disk, be promised as if it had just arrived: the next start
        registers it. Its source is taken to be ``dicom``.
        """
        path.chmod(_WHOLE)
        os.link(path, self.folder / f"dicom-{self._life}-{next(self._numbers)}.dcm")
        fsync_folder(self.folder)

    def has(self, inode: int) -> bool:
        """Whether a file that is being received, or not finished, has this inode number."""
        with os.scandir(self.folder) as entries:
            return any(entry.inode() == inode for entry in entries)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(".dcm") and entry.is_file(follow_symlinks=False):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)


def _is_whole(status: os.stat_result) -> bool:
    return not status.st_mode & stat.S_IWUSR


_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
"""Of Linux; elsewhere the disk begins when it is waited for."""
