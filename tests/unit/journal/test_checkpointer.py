"""The write-ahead log stays short, and no commit waits for that."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.journal import checkpointer
from appliance.journal.checkpointer import Checkpointer
from appliance.journal.database import Database
from tests.chaos.preload import NO_COMPILER, Faults
from tests.support.waiting import wait_for

_PAGE_BYTES = 4096


@pytest.fixture(autouse=True)
def short_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of 40 pages is long, a file of 80 too large."""
    monkeypatch.setattr(checkpointer, "_LONG_FRAMES", 40)
    monkeypatch.setattr(checkpointer, "_MOST_BYTES", 80 * _PAGE_BYTES)


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    """A journal whose log is empty."""
    database = Database(path)
    database.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    yield database
    database.close()


def write(database: Database, commits: int) -> None:
    for _ in range(commits):
        with database.transaction(durable=False) as connection:
            connection.execute("INSERT INTO rejection VALUES (NULL, 'x', hex(zeroblob(2500)), 'x', 'x', 0)")


def unheard(error: OSError) -> None:
    raise AssertionError("no sync failed") from error


def log_bytes(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


def test_a_commit_brings_nothing_over(database: Database, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpointer, "_COMMITS", 1_000_000)
    before = path.stat().st_size
    write(database, 1100)  # beyond what SQLite would do of itself
    assert path.stat().st_size == before
    assert log_bytes(path) > 1100 * _PAGE_BYTES


def test_a_long_log_is_begun_anew(database: Database, path: Path) -> None:
    write(database, 15)
    size = log_bytes(path)
    assert 40 * _PAGE_BYTES < size < 80 * _PAGE_BYTES
    Checkpointer(path, unheard).checkpoint()
    write(database, 5)
    assert log_bytes(path) == size, "the new commits are behind the old ones instead of in their place"


def test_who_reads_for_long_makes_nobody_wait_and_the_log_shrinks_afterwards(database: Database, path: Path) -> None:
    write(database, 1)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM rejection").fetchone()[0] == 1
    write(database, 100)
    statements: list[str] = []
    with traced(statements):
        Checkpointer(path, unheard).checkpoint()
    assert statements == ["PRAGMA wal_checkpoint(PASSIVE)"] * 2
    assert reader.execute("SELECT count(*) FROM rejection").fetchone()[0] == 1
    reader.close()
    assert log_bytes(path) > 80 * _PAGE_BYTES
    Checkpointer(path, unheard).checkpoint()
    assert log_bytes(path) == 0
    assert database.connection().execute("SELECT count(*) FROM rejection").fetchone()[0] == 101


def test_the_log_is_looked_after_while_commits_go_on(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer, "_COMMITS", 10)

    def write_on() -> bool:
        write(database, 10)
        return log_bytes(path) <= 80 * _PAGE_BYTES

    write(database, 200)
    wait_for(write_on, what="the log to be begun anew")
    assert database.connection().execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_disk_that_fails_is_said_and_ends_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpointer, "_COMMITS", 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a journal at all" * 500)
    watcher = Checkpointer(path, unheard)
    watcher.note_commit()
    watcher.close()
    assert "it is tried again" in caplog.text


@contextmanager
def traced(statements: list[str]) -> Iterator[None]:
    """Note the statements of connections that are opened meanwhile, but for those that set them up."""
    connect = sqlite3.connect

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(lambda statement: "wal" in statement and statements.append(statement))
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", watched)
        yield


_LOSES_A_SYNC = """
import sys
from pathlib import Path
from appliance.journal.database import Database
from appliance.spool.durable import SyncFailed
database = Database(Path(sys.argv[1]))
database.flush()
with database.transaction(durable=False) as connection:
    connection.execute("INSERT INTO study (study_instance_uid, created_at) VALUES ('1', 0)")
print("written", flush=True)
sys.stdin.readline()
database._checkpointer._commits = 1_000_000
database._checkpointer.note_commit()
database._checkpointer.close()
try:
    database.flush()
except SyncFailed:
    print("refused")
"""


@pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER))
def test_a_sync_that_failed_beside_the_commits_ends_all_promises(path: Path, tmp_path: Path) -> None:
    """The kernel tells of it once: the sync that a commit waits for would find nothing wrong."""
    faults = Faults(tmp_path / "faults", path.parent)
    command = [sys.executable, "-c", _LOSES_A_SYNC, str(path)]
    with subprocess.Popen(
        command, env=faults.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == "written\n"
        faults.fail_fsyncs(1)
        answer, _ = child.communicate("go on\n", timeout=30)
    assert faults.met == 1
    assert answer == "refused\n"
