"""One fsync for many: what several threads have written to a file, or named in a folder, reaches the disk together."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from appliance.spool.durable import SyncFailed, sync


class GroupSync:
    """Syncs one file or folder.

    While one thread waits for the disk, others write; when it is done, the next of them syncs for all. After a failure
    nothing is promised any more: the kernel may have dropped what it could not write, and a second fsync that succeeds
    would say nothing about it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._condition = threading.Condition()
        self._leading = False
        self._started = self._finished = 0
        self._failure: OSError | None = None

    def wait(self) -> None:
        """Return once all that was written to the file before this call is on the disk.

        Raises
        ------
        SyncFailed
            The disk failed, or was full, now or at an earlier call.
        """
        with self._condition:
            wanted = self._started + 1  # one that has begun already may have missed what this thread wrote
            while self._finished < wanted:
                self.check()
                if self._leading:
                    self._condition.wait()
                else:
                    self._lead()

    def check(self) -> None:
        """Raise ``SyncFailed`` when an earlier call of ``wait`` did."""
        if self._failure is not None:
            raise SyncFailed(self._failure.errno, self._failure.strerror)

    def fail(self, failure: OSError) -> None:
        """Another sync of the file failed: the kernel tells of that once, and nobody here will hear of it again."""
        with self._condition:
            self._failure = failure

    def _lead(self) -> None:
        """Sync for all that wait; the lock is free meanwhile."""
        self._leading = True
        self._started += 1
        number = self._started
        self._condition.release()
        failure = None
        try:
            self._sync()
        except OSError as error:
            failure = error
        finally:
            self._condition.acquire()
            self._leading = False
            self._condition.notify_all()
        if failure is None:
            self._finished = number
        else:
            self._failure = failure

    def _sync(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # a write-ahead log of which SQLite has put all into the database
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)
