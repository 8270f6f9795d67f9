"""The arrows of the state machines, all of them, enforced by the database against anybody's SQL."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from itertools import product

import pytest

from appliance.domain.states import (
    CommitmentState,
    DeliveryState,
    JobState,
    ProcedureStepState,
    SeriesState,
    StepMessageState,
)
from appliance.errors import IllegalTransition
from appliance.journal.journal import Journal
from appliance.journal.records import Answered
from tests.unit.journal.makers import claim, complete, queue_job, received, register, succeed

# Written out a second time on purpose: a change of the table in the schema has to be meant.
ARROWS = {
    "series": {
        ("", "receiving"): "opened",
        ("receiving", "complete"): "completed",
        ("complete", "receiving"): "reopened",
    },
    "job": {
        ("", "queued"): "created",
        ("queued", "running"): "claimed",
        ("queued", "superseded"): "superseded",
        ("queued", "failed"): "given up",
        ("running", "queued"): "returned",
        ("running", "succeeded"): "succeeded",
        ("running", "unsuitable"): "found unsuitable",
        ("running", "failed"): "failed",
        ("failed", "queued"): "requeued",
        ("unsuitable", "queued"): "requeued",
    },
    "delivery": {
        ("", "queued"): "created",
        ("queued", "sending"): "claimed",
        ("sending", "queued"): "returned",
        ("sending", "delivered"): "delivered",
        ("sending", "failed"): "failed",
        ("failed", "queued"): "requeued",
    },
    "procedure_step": {
        ("", "in progress"): "created",
        ("in progress", "completed"): "completed",
        ("in progress", "discontinued"): "discontinued",
    },
    "step_message": {
        ("", "queued"): "created",
        ("queued", "delivered"): "delivered",
        ("queued", "failed"): "failed",
        ("failed", "queued"): "requeued",
    },
    "commitment": {
        ("", "pending"): "asked",
        ("pending", "queued"): "judged",
        ("queued", "reported"): "reported",
        ("queued", "failed"): "failed",
        ("failed", "pending"): "again",
        ("reported", "pending"): "again",
    },
}
STATES = {
    "series": SeriesState,
    "job": JobState,
    "delivery": DeliveryState,
    "procedure_step": ProcedureStepState,
    "step_message": StepMessageState,
    "commitment": CommitmentState,
}
PAIRS = [
    (machine, *pair) for machine, states in STATES.items() for pair in product(states, states) if pair[0] != pair[1]
]
LEGAL = [case for case in PAIRS if (case[1], case[2]) in ARROWS[case[0]]]
ILLEGAL = [case for case in PAIRS if (case[1], case[2]) not in ARROWS[case[0]]]


@pytest.fixture(scope="module")
def file_with_rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """A journal with a row of each machine; the newest job and the only delivery are in their first state."""
    path = tmp_path_factory.mktemp("machines") / "journal.sqlite3"
    journal = Journal(path)
    queue_job(journal, "1")
    succeed(journal, claim(journal), kinds=("sr",))
    queue_job(journal, "2")
    journal.procedure_steps.create("3", b"", 100, send_on=True)
    journal.commitments.ask("4", [], ae_title="CT1", address="192.0.2.1", judge_at=110, now=100)
    journal.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    yield connection
    connection.close()


@pytest.fixture
def rows(file_with_rows: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """That journal, with everything that a test does undone after it."""
    file_with_rows.execute("BEGIN")
    yield file_with_rows
    file_with_rows.execute("ROLLBACK")


def first_row(sql: sqlite3.Connection, machine: str) -> int:
    """The id of a row that is in the first state of its machine."""
    found: int = sql.execute(f"SELECT max({machine}_id) FROM {machine}").fetchone()[0]
    return found


def state_of(sql: sqlite3.Connection, machine: str, row: int) -> str:
    found: str = sql.execute(f"SELECT state FROM {machine} WHERE {machine}_id = ?", (row,)).fetchone()["state"]
    return found


def walk_to(sql: sqlite3.Connection, machine: str, row: int, state: str) -> None:
    """Bring a row to ``state`` along listed arrows, the shortest way."""
    start = state_of(sql, machine, row)
    ways: dict[str, list[str]] = {start: []}
    queue = [start]
    while state not in ways:
        here = queue.pop(0)
        for source, target in ARROWS[machine]:
            if source == here and target not in ways:
                ways[target] = [*ways[here], target]
                queue.append(target)
    for step in ways[state]:
        move(sql, machine, row, step)


def move(sql: sqlite3.Connection, machine: str, row: int, state: str) -> None:
    sql.execute(f"UPDATE {machine} SET state = ? WHERE {machine}_id = ?", (state, row))


def test_the_table_in_the_database_is_the_one_above(rows: sqlite3.Connection) -> None:
    found = rows.execute("SELECT machine, from_state, to_state, event FROM transition").fetchall()
    assert {(row["machine"], row["from_state"], row["to_state"]): row["event"] for row in found} == {
        (machine, *pair): event for machine, arrows in ARROWS.items() for pair, event in arrows.items()
    }


@pytest.mark.parametrize(("machine", "source", "target"), LEGAL)
def test_a_listed_arrow_leaves_an_event(rows: sqlite3.Connection, machine: str, source: str, target: str) -> None:
    row = first_row(rows, machine)
    walk_to(rows, machine, row, source)
    move(rows, machine, row, target)
    last = rows.execute("SELECT * FROM event ORDER BY event_id DESC").fetchone()
    found = (last["machine"], last["row_id"], last["from_state"], last["to_state"], last["event"])
    assert found == (machine, row, source, target, ARROWS[machine][source, target])
    assert last["at"] == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize(("machine", "source", "target"), ILLEGAL)
def test_any_other_arrow_is_refused(rows: sqlite3.Connection, machine: str, source: str, target: str) -> None:
    row = first_row(rows, machine)
    walk_to(rows, machine, row, source)
    events = rows.execute("SELECT count(*) FROM event").fetchone()[0]
    with pytest.raises(sqlite3.IntegrityError, match=f"illegal {machine} transition"):
        move(rows, machine, row, target)
    assert state_of(rows, machine, row) == source
    assert rows.execute("SELECT count(*) FROM event").fetchone()[0] == events


@pytest.mark.parametrize("machine", STATES)
def test_a_state_that_does_not_exist_is_refused(rows: sqlite3.Connection, machine: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match=f"illegal {machine} transition"):
        move(rows, machine, first_row(rows, machine), "lost")


@pytest.mark.parametrize(
    ("machine", "state"),
    [(m, s) for m, states in STATES.items() for s in [*states, "lost"] if ("", s) not in ARROWS[m]],
)
def test_nothing_is_born_in_a_later_state(rows: sqlite3.Connection, machine: str, state: str) -> None:
    names = [row["name"] for row in rows.execute(f"PRAGMA table_info({machine})") if row["name"] != f"{machine}_id"]
    changed = {"state": "?", "revision": "99", "destination": "'elsewhere'", "series_instance_uid": "'9.9'"}
    changed["transaction_uid"] = "'9.9'"
    changed |= {"sop_instance_uid": "'9.9'"} if machine == "procedure_step" else {}
    values = ", ".join(changed.get(name, name) for name in names)
    copy = f"INSERT INTO {machine} ({', '.join(names)}) SELECT {values} FROM {machine} LIMIT 1"
    with pytest.raises(sqlite3.IntegrityError, match=f"illegal {machine} transition"):
        rows.execute(copy, (state,))


def test_the_same_state_again_is_no_arrow(rows: sqlite3.Connection) -> None:
    events = rows.execute("SELECT count(*) FROM event").fetchone()[0]
    move(rows, "job", first_row(rows, "job"), "queued")
    assert rows.execute("SELECT count(*) FROM event").fetchone()[0] == events


def test_the_journal_says_illegal_transition(journal: Journal) -> None:
    """What SQL refuses reaches the caller as an error of the appliance, and nothing is written."""
    queue_job(journal, "1")
    succeed(journal, claim(journal), kinds=("sr",))
    with pytest.raises(IllegalTransition, match="illegal delivery transition"):
        journal.deliveries.fail(1, 220.0, 0, "nobody is sending it")
    assert journal.overview.tally()["delivery"] == {"queued": 1, "sending": 0, "delivered": 0, "failed": 0}


def test_a_studys_whole_way_can_be_read_from_the_events(journal: Journal, sql: sqlite3.Connection) -> None:
    register(journal, received("1.1", at=100))
    complete(journal, 130)
    succeed(journal, claim(journal), kinds=("sr",))
    [delivery] = journal.deliveries.claim("pacs", 220, 10)
    journal.deliveries.delivered([Answered(delivery, 221, 0)])
    assert [(row["machine"], row["event"]) for row in sql.execute("SELECT * FROM event ORDER BY event_id")] == [
        ("series", "opened"),
        ("series", "completed"),
        ("job", "created"),
        ("job", "claimed"),
        ("job", "succeeded"),
        ("delivery", "created"),
        ("delivery", "claimed"),
        ("delivery", "delivered"),
    ]
