"""What the roles do and ask all the time costs the same however much the journal holds and however much waits.

Counted are the loops of SQLite's virtual machine, triggers and checks of foreign keys included: the same in each run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.journal.journal import Journal
from appliance.journal.records import Answered
from appliance.journal.retention import Limits
from appliance.journal.waits import LongestWaits
from tests.support.full_journal import BACK_OFF, DESTINATION, MODEL, Filling, fill_journal
from tests.unit.journal.makers import YES, claim, complete, received, register, succeed

NOW = 1_000_000.0
SIZES = {"little": 100, "much": 2000}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A journal with little in it, and one with twenty times as much."""
    paths = {}
    for name, size in SIZES.items():
        paths[name] = tmp_path_factory.mktemp(name) / "journal.sqlite3"
        fill_journal(paths[name], Filling(history=size, images=5, waiting=size, now=NOW))
    return paths


@pytest.fixture
def journals(filled: dict[str, Path], tmp_path: Path) -> Iterator[dict[str, Journal]]:
    """Copies of them, for a test to write to."""
    opened = {}
    for name, path in filled.items():
        copy = tmp_path / f"{name}.sqlite3"
        copy.write_bytes(path.read_bytes())
        opened[name] = Journal(copy)
    yield opened
    for journal in opened.values():
        journal.close()


def loops(journal: Journal, action: Callable[[Journal], object]) -> int:
    """How many times SQLite went round a loop, or jumped, for ``action``."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    connection: sqlite3.Connection = journal.instances._database.connection()
    connection.set_progress_handler(step, 1)
    try:
        action(journal)
    finally:
        connection.set_progress_handler(None, 0)
    return count


def receive(journal: Journal) -> None:
    """An image of a new series, another one, and one of a series that had been complete."""
    for sop, series in (("1.1", "1"), ("1.2", "1"), ("1.3", "2")):
        register(journal, received(sop, series=series, at=NOW), [YES])
        complete(journal, NOW + 40)
    register(journal, received("1.4", series="2", at=NOW + 50))
    journal.instances.settle([1], NOW + 55, "association released")


def judge(journal: Journal) -> None:
    """Two jobs: one that succeeds, and one that fails, is tried again, and fails for good."""
    succeed(journal, claim(journal, now=NOW), now=NOW)
    job = claim(journal, now=NOW)
    journal.jobs.predecessor(job)
    journal.jobs.fail(job, "worker-0", NOW, "disk", "full", retry_at=NOW, max_attempts=3)
    again = claim(journal, now=NOW)
    journal.jobs.fail(again, "worker-0", NOW, "disk", "full", retry_at=None, max_attempts=3)
    journal.jobs.requeue(again.job_id, NOW)


def deliver(journal: Journal) -> None:
    """Four deliveries, with each end that there is."""
    first, *others = journal.deliveries.claim(DESTINATION, NOW, 4)
    journal.deliveries.delivered([Answered(first, NOW, 0)])
    journal.deliveries.postpone(others[0].delivery_id, NOW + 60, None, "refused")
    journal.deliveries.fail(others[1].delivery_id, NOW, 0xC000, "cannot understand")
    assert journal.deliveries.recover(DESTINATION) == 1


def keep_leases(journal: Journal) -> None:
    """What a worker does whether there is work or not."""
    journal.jobs.extend("worker-0", NOW + 60)
    journal.jobs.recover("worker-0", NOW, 3)
    journal.jobs.recover_expired(NOW, 3)
    journal.activations.generation()


def no_job_for_this_worker(journal: Journal) -> None:
    """Nothing may be claimed yet."""
    assert journal.jobs.claim("worker-0", 1.0, 60) is None
    assert journal.jobs.next_available_at() is not None


QUESTIONS: dict[str, Callable[[Journal], object]] = {
    "an instance by its UID": lambda journal: journal.instances.find("1.2.826.0.1.3680043.8.498.3.1.1"),
    "series that are due": lambda journal: journal.instances.due(NOW),
    "when the next series is due": lambda journal: journal.instances.next_due_at(),
    "series to ask the PACS about": lambda journal: journal.expectations.quiet(NOW - 1e6, NOW),
    "when the next job is available": lambda journal: journal.jobs.next_available_at(),
    "when the next delivery is available": lambda journal: journal.deliveries.next_available_at(DESTINATION),
    "tally": lambda journal: journal.overview.tally(),
    "the oldest that waits": lambda journal: journal.overview.waiting(),
    "deliveries by destination": lambda journal: journal.overview.deliveries(),
    "newest series": lambda journal: journal.overview.series(20),
    "newest jobs": lambda journal: journal.overview.jobs(20),
    "failed jobs": lambda journal: journal.overview.failed_jobs(20),
    "images that were lost": lambda journal: journal.overview.lost(),
    "waits that are too long": lambda journal: journal.waits.shorten(NOW, LongestWaits(1e9, 1e9, 1e9, 1e9, 1e9)),
    "messages about procedure steps": lambda journal: (
        journal.step_messages.next_available_at(),
        journal.step_messages.undone(),
    ),
    "deletions": lambda journal: (journal.retention.totals(), journal.retention.newest(20)),
    "the oldest that is here": lambda journal: journal.retention.oldest_received_at(),
    "room that was taken": lambda journal: journal.retention.taken_bytes(NOW - 7200),
}  # fmt: skip


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions(journals: dict[str, Journal], name: str) -> None:
    assert_flat(journals, QUESTIONS[name])


def test_judging(journals: dict[str, Journal]) -> None:
    """Each of the three claims passes over the jobs that are tried again later, in the index."""
    little, much = (loops(journals[name], judge) for name in ("little", "much"))
    later = SIZES["much"] // BACK_OFF
    assert much <= 1.1 * little + 3 * 5 * later, (
        f"{little} loops in a journal with little in it, {much} with 20 times more"
    )


@pytest.mark.parametrize("action", [receive, deliver, keep_leases])
def test_work(journals: dict[str, Journal], action: Callable[[Journal], None]) -> None:
    assert_flat(journals, action)


def assert_flat(journals: dict[str, Journal], action: Callable[[Journal], object]) -> None:
    little, much = (loops(journals[name], action) for name in ("little", "much"))
    assert much <= 1.1 * little + 10, f"{little} loops in a journal with little in it, {much} in one with 20 times more"


def test_refusals_are_looked_for_among_the_last_answers(journals: dict[str, Journal]) -> None:
    """However long all models have wanted all images."""
    assert loops(journals["much"], lambda journal: journal.overview.refusals(20)) < 6 * 1000


def test_what_may_not_be_claimed_yet_is_passed_over_in_the_index(journals: dict[str, Journal]) -> None:
    """Jobs that are tried again later, and those of a model that is being opened, may stand before all others."""
    jobs, not_yet = journals["much"].jobs, [(MODEL, "1.0.0", False)]
    connection = jobs._database.connection()
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    assert jobs.claim("worker-0", 1.0, 60) is None
    assert jobs.claim("worker-0", NOW, 60, not_yet=not_yet) is None
    assert jobs.next_available_at(not_yet) is None
    connection.set_trace_callback(None)
    plans = [
        row["detail"]
        for statement in statements
        if "available_at" in statement
        for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]
    queued = "SCAN job USING COVERING INDEX job_queued"
    assert [plan for plan in plans if "COVERING" in plan] == [
        queued,
        queued,
        "SEARCH job USING COVERING INDEX job_available",
    ]


_CHILDREN = """SELECT child.name AS child, key."from" AS column
    FROM sqlite_schema child, pragma_foreign_key_list(child.name) key
    WHERE child.type = 'table' AND key."table" <> 'deletion'"""  # which is never deleted itself
_INDEXED = """SELECT 1 FROM pragma_index_list(:child) list, pragma_index_info(list.name) info
    WHERE info.seqno = 0 AND info.name = :column
    UNION SELECT 1 FROM pragma_table_info(:child) WHERE pk = 1 AND name = :column"""


def test_every_foreign_key_has_an_index(journals: dict[str, Journal]) -> None:
    """SQLite looks for the rows that refer to one that is deleted; without an index it reads all of them."""
    connection = journals["little"].instances._database.connection()
    keys = [dict(row) for row in connection.execute(_CHILDREN)]
    assert len(keys) >= 10
    assert [key for key in keys if connection.execute(_INDEXED, key).fetchone() is None] == []


def test_a_deletion_costs_what_it_deletes(journals: dict[str, Journal]) -> None:
    limits = Limits(NOW - 1, NOW - 1)

    def delete(journal: Journal) -> None:
        study = journal.instances._database.connection().execute("SELECT min(study_id) FROM study").fetchone()[0]
        assert journal.retention.delete_series(study, limits, reason="age", now=NOW) is not None

    assert_flat(journals, delete)
