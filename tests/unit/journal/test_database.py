"""The SQLite file itself: opened, damaged, of a newer version; transactions; the plans of the frequent queries."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import JournalError
from appliance.journal.database import Database
from appliance.journal.journal import Journal
from appliance.journal.records import Answered
from appliance.spool.durable import SyncFailed
from tests.support.waiting import wait_for
from tests.unit.journal.makers import SCRIPTS, claim, complete, queue_job, received, register, succeed


def test_promises_survive_power_loss(path: Path) -> None:
    """SQLite itself syncs at checkpoints; the log is synced after each commit that changed something."""
    database = Database(path)
    connection = database.connection()
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 1
    assert connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    database.close()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each file when it was synced."""
    sizes: list[int] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    return sizes


def write(database: Database, number: int, *, durable: bool = True) -> None:
    with database.transaction(durable=durable) as connection:
        connection.execute("INSERT INTO study (study_instance_uid, created_at) VALUES (?, 0)", (str(number),))


def test_a_commit_is_on_the_disk_before_it_counts(path: Path, synced: list[int]) -> None:
    database = Database(path)
    synced.clear()
    write(database, 1)
    assert synced == [path.with_name(f"{path.name}-wal").stat().st_size]
    with database.transaction():
        pass  # nothing is written, so nothing has to be on the disk
    write(database, 2, durable=False)
    assert len(synced) == 1
    database.flush()
    assert len(synced) == 2
    database.close()


def test_many_threads_share_a_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is busy with the first, the others commit; one more sync is enough for all of them."""
    database = Database(path)
    busy, go_on, calls = threading.Event(), threading.Event(), []
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        calls.append(descriptor)
        busy.set()
        assert go_on.wait(30)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    threads = [threading.Thread(target=write, args=(database, number)) for number in range(8)]
    threads[0].start()
    assert busy.wait(30)
    for thread in threads[1:]:
        thread.start()
    other = sqlite3.connect(path)
    wait_for(lambda: other.execute("SELECT count(*) FROM study").fetchone()[0] == 8, what="all commits")
    assert all(thread.is_alive() for thread in threads)  # none has been promised anything
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert len(calls) in (2, 3)  # the last to commit may have come just after the second sync had begun
    other.close()
    database.close()


def test_after_a_failed_sync_nothing_is_promised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when the disk says yes again, and not for what is committed already."""
    database = Database(path)

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output error"):
            write(database, 1)
    with pytest.raises(OSError, match="Input/output error"):
        write(database, 2)
    with pytest.raises(OSError, match="Input/output error"):
        database.flush()
    with pytest.raises(SyncFailed):
        database.check()  # by which a role notices that has nothing to commit
    database.close()


def test_opening_again_changes_nothing(path: Path) -> None:
    first = Journal(path)
    queue_job(first, "1")
    first.close()
    second = Journal(path)
    assert second.overview.tally()["job"]["queued"] == 1
    second.close()


def test_a_newer_versions_journal_is_refused_with_the_mend(path: Path) -> None:
    Journal(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalError) as caught:
        Journal(path)
    expected = f"newer version: found schema 99, expected {len(SCRIPTS)} or older. Install the appliance version"
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"this is no database at all, but a text of some length" * 100, b"SQLite format 3\0"]
)
def test_a_file_that_is_no_journal(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(JournalError, match="cannot open the journal"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_damaged_journal(path: Path) -> None:
    journal = Journal(path)
    queue_job(journal, "1")
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xff" * 4000 + whole[4100:])
    with pytest.raises(JournalError, match="cannot open the journal"):
        Journal(path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot open the journal"):
        Journal(tmp_path / "file" / "journal.sqlite3")


def test_a_foreign_database_is_not_made_a_journal_of(path: Path) -> None:
    """Its tables could have our names."""
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE study (x)")
    connection.close()
    with pytest.raises(JournalError, match="cannot open the journal"):
        Journal(path)
    connection = sqlite3.connect(path)
    assert [row[0] for row in connection.execute("SELECT name FROM sqlite_master")] == ["study"]
    connection.close()


def test_a_block_that_raises_is_undone(path: Path) -> None:
    database = Database(path)
    with pytest.raises(KeyError), database.transaction() as connection:
        connection.execute("INSERT INTO study (study_instance_uid, created_at) VALUES ('1', 0)")
        raise KeyError
    assert database.connection().execute("SELECT count(*) FROM study").fetchone()[0] == 0
    database.close()


def test_a_commit_that_fails_leaves_no_transaction_behind(path: Path) -> None:
    """An open transaction would hold the write lock: no role could write any more."""
    database = Database(path)
    with pytest.raises(sqlite3.IntegrityError), database.transaction() as connection:
        connection.execute("PRAGMA defer_foreign_keys = ON")  # the constraint is checked by the commit
        connection.execute(
            "INSERT INTO delivery (result_id, destination, available_at, created_at) VALUES (4711, 'pacs', 0, 0)"
        )
    with database.transaction() as connection:
        connection.execute("INSERT INTO study (study_instance_uid, created_at) VALUES ('1', 0)")
    assert database.connection().execute("SELECT count(*) FROM delivery").fetchone()[0] == 0
    database.close()


def test_a_full_disk_is_reported_as_such_and_passes(path: Path) -> None:
    """SQLite undoes the transaction by itself: there must be no second error that hides the first."""
    database = Database(path)
    connection = database.connection()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OSError) as caught, database.transaction() as writing:
        for number in range(10_000):
            writing.execute("INSERT INTO study (study_instance_uid, created_at) VALUES (?, 0)", (f"1.{number}",))
    assert caught.value.errno == errno.ENOSPC  # so that a C-STORE is answered with 0xA700, and a job waits
    connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
    with database.transaction() as writing:
        writing.execute("INSERT INTO study (study_instance_uid, created_at) VALUES ('1', 0)")
    assert connection.execute("SELECT count(*) FROM study").fetchone()[0] == 1
    database.close()


def test_a_disk_too_full_for_a_journal_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was begun is undone: the next start, with room, makes it."""
    connect = sqlite3.connect

    def connect_to_full_disk(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA max_page_count = 6")
        return connection

    with monkeypatch.context() as full:
        full.setattr(sqlite3, "connect", connect_to_full_disk)
        with pytest.raises(JournalError, match=r"cannot open the journal .*No space left on device"):
            Journal(path)
    journal = Journal(path)
    queue_job(journal, "1")
    journal.close()


def test_each_thread_has_its_own_connection_and_ended_threads_leave_none(path: Path) -> None:
    database = Database(path)
    seen: list[sqlite3.Connection] = []
    for _ in range(20):
        thread = threading.Thread(target=lambda: seen.append(database.connection()))
        thread.start()
        thread.join()
    assert len(set(map(id, seen))) == 20
    assert len(database._all) == 2  # this thread's and that of the last one
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        seen[0].execute("SELECT 1")
    database.close()


class Plans:
    """Notes the statements that run on the journal of this thread, and asks SQLite how it runs them."""

    def __init__(self, journal: Journal) -> None:
        self.connection = journal._database.connection()
        self.statements: list[str] = []

    def __enter__(self) -> Plans:
        self.connection.set_trace_callback(self.statements.append)
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.set_trace_callback(None)

    def steps(self) -> list[str]:
        found = []
        for statement in self.statements:
            if statement.split()[0] in ("SELECT", "UPDATE", "DELETE"):
                found += [row[3] for row in self.connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        return found


def test_the_frequent_queries_never_read_a_whole_table(journal: Journal) -> None:
    register(journal, received("1.1", at=100))
    with Plans(journal) as plans:
        journal.instances.find("1.1")
        journal.instances.next_due_at()
        register(journal, received("1.2", at=100))
        journal.instances.settle([1], 105, "association released")
        complete(journal, 200)
        journal.jobs.next_available_at()
        journal.jobs.extend("worker-0", 300)
        journal.jobs.recover("worker-0", 200, 3)
        journal.jobs.recover_expired(200, 3)
        job = claim(journal)
        journal.jobs.predecessor(job)
        succeed(journal, job)
        journal.deliveries.recover("pacs")
        journal.deliveries.next_available_at("pacs")
        journal.deliveries.delivered(
            [Answered(delivery, 300, 0) for delivery in journal.deliveries.claim("pacs", 300, 10)]
        )
        journal.overview.waiting()
        journal.overview.deliveries()
        journal.overview.stages(1)
        journal.overview.jobs(20)
        journal.overview.failed_jobs(20)
    steps = plans.steps()
    assert len(steps) > 20
    # A partial index holds only what waits or runs: reading all of it is fine, reading all that ever was is not.
    partial = (
        "series_receiving",
        "job_queued",
        "job_running",
        "delivery_queued",
        "delivery_undone",
        "delivery_sending",
        "job_failed",
    )
    whole = [
        step
        for step in steps
        if step.startswith("SCAN")
        and not step.endswith(partial)
        # The newest jobs, by row id; and the tally of deliveries, which has a row for each destination and state.
        and step not in ("SCAN job", "SCAN told")
    ]
    assert whole == []


def test_claims_come_straight_from_the_index_of_what_waits(journal: Journal) -> None:
    queue_job(journal, "1")
    with Plans(journal) as plans:
        claim(journal)
    assert "SCAN job USING COVERING INDEX job_queued" in plans.steps()
    assert not any("TEMP B-TREE" in step for step in plans.steps())
