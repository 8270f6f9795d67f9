"""The SQLite file: opened, migrated, and used by several threads and processes at once.

A commit is on the disk before ``transaction`` ends, as with ``synchronous=FULL``, which syncs the write-ahead log at
each commit and holds the write lock meanwhile. Here SQLite is told ``NORMAL``, which leaves that out and nothing else
(https://sqlite.org/pragma.html#pragma_synchronous), and the log is synced afterwards: once for all threads that wait,
while others already write. Each thread has its own connection.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from appliance.errors import IllegalTransition, JournalError
from appliance.journal.checkpointer import Checkpointer
from appliance.spool.durable import ensure_folder
from appliance.spool.group_sync import GroupSync

_BUSY_TIMEOUT_S = 30.0


class Database:
    """One journal file.

    Raises
    ------
    JournalError
        The file cannot be opened, is damaged, or was written by a newer version of the appliance.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = GroupSync(path.with_name(f"{path.name}-wal"))
        self._checkpointer = Checkpointer(path, self._log.fail)
        self._local = threading.local()
        self._all: list[tuple[threading.Thread, sqlite3.Connection]] = []
        self._lock = threading.Lock()
        try:
            ensure_folder(path.parent)
            self._migrate(self.connection())
        except (sqlite3.DatabaseError, OSError) as error:
            raise JournalError(
                f"cannot open the journal {path}",
                found=str(error),
                mend="Check the folder's owner, the disk, and that the file is a journal of the appliance",
            ) from error

    def connection(self) -> sqlite3.Connection:
        """This thread's connection, in autocommit mode; rows come as ``sqlite3.Row``."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            connection.row_factory = sqlite3.Row
            if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
                # Only a new file can be told that its unused pages will be given back to the disk.
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            _enter_wal_mode(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # see Checkpointer
            self._local.connection = connection
            with self._lock:
                self._close_abandoned()
                self._all.append((threading.current_thread(), connection))
        return connection

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Run a block in one write transaction: committed and durable when the block ends, undone when it raises.

        Without ``durable`` it is committed, and on the disk with the next one that is, or after ``flush``; the order of
        commits survives a power failure either way.

        ``BEGIN IMMEDIATE`` takes the write lock at once: a transaction that started as a reader could otherwise
        fail with ``SQLITE_BUSY`` in its middle, whatever the timeout.

        Raises
        ------
        IllegalTransition
            An arrow that is not in the table of transitions.
        OSError
            The disk is full (``ENOSPC``) or failed (``EIO``), as any write of the caller would have found it.
        """
        connection = self.connection()
        before = connection.total_changes
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            # A commit that fails leaves its transaction open, and with it the write lock that all roles need; on a
            # full disk SQLite has undone the transaction already, and a second ROLLBACK would hide the reason.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise _in_our_words(error) from error
            raise
        if connection.total_changes != before:
            self._checkpointer.note_commit()
            if durable:
                self._log.wait()

    def pragma(self, name: str) -> int:
        """The value of a pragma that is a number (https://sqlite.org/pragma.html)."""
        return int(self.connection().execute(f"PRAGMA {name}").fetchone()[0])

    def rewrite(self) -> None:
        """Write the file anew, without unused pages; later ones can then be given back. Nobody may use it meanwhile.

        Raises
        ------
        OSError
            There is no room for a second copy.
        """
        connection = self.connection()
        try:
            # The kind of file can be changed only outside of WAL mode.
            for statement in ("journal_mode = DELETE", "auto_vacuum = INCREMENTAL"):
                connection.execute(f"PRAGMA {statement}").fetchall()
            connection.execute("VACUUM")
        except sqlite3.Error as error:
            raise _in_our_words(error) from error
        finally:
            _enter_wal_mode(connection)

    def flush(self) -> None:
        """Return once every commit that this process has seen is on the disk; raises ``OSError`` as a commit would.

        What a query finds may have been committed a moment ago, by a thread that still waits for the disk.
        """
        self._log.wait()

    def check(self) -> None:
        """Raise ``SyncFailed`` when a commit or ``flush`` of this process did: no later one can succeed."""
        self._log.check()

    def close(self) -> None:
        """Close the connections; the journal is not used afterwards.

        Those of other threads that are still alive are left to them: closing one in the middle of a statement crashes
        the process inside SQLite.
        """
        self._checkpointer.close()
        with self._lock:
            for thread, connection in self._all:
                if thread is threading.current_thread() or not thread.is_alive():
                    connection.close()
            self._all.clear()
        self._local = threading.local()

    def _close_abandoned(self) -> None:
        """Close the connections of threads that have ended: reception has a thread for each association."""
        abandoned = [entry for entry in self._all if not entry[0].is_alive()]
        self._all = [entry for entry in self._all if entry[0].is_alive()]
        for _, connection in abandoned:
            connection.close()

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Apply, each in one transaction, the schema files that the journal has not seen yet."""
        scripts = _scripts()
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(scripts):
            raise JournalError(
                f"the journal {self._path} is of a newer version",
                found=f"schema {version}",
                expected=f"{len(scripts)} or older",
                mend="Install the appliance version that wrote it, or a newer one",
            )
        for number, script in enumerate(scripts[version:], start=version + 1):
            # Another role may be migrating at the same moment: look again once the write lock is held.
            with self.transaction():
                if connection.execute("PRAGMA user_version").fetchone()[0] < number:
                    for statement in _statements(script.read_text(encoding="utf-8")):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {number}")
            self.flush()  # changes of the schema are not counted as changes of rows


def newest_schema() -> int:
    """The version of the schema that this version of the appliance writes."""
    return len(_scripts())


def _scripts() -> list[Traversable]:
    """The files of the schema: the first one makes version 1, each further one the next."""
    files = resources.files("appliance.journal").joinpath("schema").iterdir()
    return sorted((file for file in files if file.name.endswith(".sql")), key=lambda file: file.name)


def _in_our_words(error: sqlite3.Error) -> Exception:
    """What the callers of the journal handle; an error that only a defect can cause stays as it is."""
    if isinstance(error, sqlite3.IntegrityError) and "transition" in str(error):
        return IllegalTransition(str(error))
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the other bits say where in SQLite it was found
    if primary == sqlite3.SQLITE_FULL:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if primary == sqlite3.SQLITE_IOERR:
        return OSError(errno.EIO, os.strerror(errno.EIO))
    return error


def _enter_wal_mode(connection: sqlite3.Connection) -> None:
    """Switch to WAL; SQLite's own patience does not cover several processes that do so at once on a new file."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _statements(script: str) -> Iterator[str]:
    """Split a script at complete statements; ``executescript`` would commit the transaction that guards it."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
