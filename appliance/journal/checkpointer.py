"""Brings SQLite's write-ahead log into the database, beside the threads that write to it.

SQLite would let the commit that finds the log long do that work: the image whose registration it is then waits, for a
quarter of a second and more after somebody has read for long and the log has grown meanwhile.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

_log = logging.getLogger(__name__)

_COMMITS = 128
"""After so many commits of this process the log is looked after: some 1000 pages, which is SQLite's own measure."""
_LONG_FRAMES = 16_000
"""A log with so many pages, 64 MiB, is begun anew, for which writers have to stop for a moment."""
_MOST_BYTES = 128 * 1024 * 1024
"""A log file that has grown beyond this is cut off; a smaller one keeps its blocks for the commits to come."""
_PATIENCE_S = 0.05
"""How long writers may have to stop for readers to end. Where it is not enough, there is another time."""


class Checkpointer:
    """Looks after the log of one journal file; usable from any thread.

    Parameters
    ----------
    on_sync_failed
        Called when SQLite could not sync: what was committed and not synced before may be lost.
    """

    def __init__(self, path: Path, on_sync_failed: Callable[[OSError], None]) -> None:
        self._path = path
        self._on_sync_failed = on_sync_failed
        self._log_file = path.with_name(f"{path.name}-wal")
        self._lock = threading.Lock()
        self._commits = 0
        self._running: threading.Thread | None = None

    def note_commit(self) -> None:
        """Something was committed. Does not wait: what it leads to is done by a thread that ends again."""
        self._commits += 1  # two threads may count as one, which is no matter
        if self._commits < _COMMITS:
            return
        with self._lock:
            if self._running is not None and self._running.is_alive():
                return
            self._commits = 0
            self._running = threading.Thread(target=self._run, name="checkpoint", daemon=True)
            self._running.start()

    def close(self) -> None:
        """Wait for the end of what is being done."""
        with self._lock:
            if self._running is not None:
                self._running.join()

    def _run(self) -> None:
        try:
            self.checkpoint()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_FSYNC:
                self._on_sync_failed(OSError(errno.EIO, os.strerror(errno.EIO)))
            # Anything else is no matter: the log has everything still.
            _log.warning("the journal's log cannot be brought into the journal (%s); it is tried again", error)

    def checkpoint(self) -> None:
        """Bring what can be brought over, and begin the log anew when it is long and nobody reads old rows.

        Raises
        ------
        sqlite3.Error
            The disk failed or is full.
        """
        connection = sqlite3.connect(self._path, timeout=_PATIENCE_S, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            frames, _ = _checkpoint(connection, "PASSIVE")
            if frames < _LONG_FRAMES:
                return
            # Writers have gone on meanwhile. Once more without them waiting, so that they wait for little; and where
            # not even that is done which was there before, somebody reads old rows, and they would wait for nothing.
            _, done = _checkpoint(connection, "PASSIVE")
            if done >= frames:
                _checkpoint(connection, "TRUNCATE" if self._log_file.stat().st_size > _MOST_BYTES else "RESTART")
        finally:
            connection.close()


def _checkpoint(connection: sqlite3.Connection, mode: str) -> tuple[int, int]:
    """Run a checkpoint (https://sqlite.org/pragma.html#pragma_wal_checkpoint).

    Returns how many pages the log has, and how many of them are in the database by now.
    """
    _, frames, done = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    return frames, done
