"""From each released version of the schema to the newest: with all rows, after ``kill -9`` too, and at work."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from appliance.journal import database
from appliance.journal.journal import Journal
from appliance.journal.records import Answered
from appliance.journal.retention import Limits
from tests.unit.journal.makers import SCRIPTS, claim, complete, received, register, succeed
from tests.unit.journal.old_journals import make_old_journal

NEWEST = len(SCRIPTS)
VERSIONS = range(1, NEWEST + 1)
# What was promised, is to be done and became of it.
_KEPT = (
    "SELECT study_id, study_instance_uid, created_at FROM study",
    "SELECT series_id, study_id, series_instance_uid, state, revision, attributes, image_count, sign FROM series",
    "SELECT * FROM instance",
    "SELECT * FROM conflict",
    "SELECT * FROM rejection",
    "SELECT series_id, instance_id, revision, model, model_version, refusal, assessed_at FROM assessment",
    "SELECT job_id, series_id, instance_id, revision, model, model_version, state, attempts, owner, lease_until,"
    " finished_at, reason, message, result FROM job",
    "SELECT * FROM stage",
    "SELECT * FROM result",
    "SELECT delivery_id, result_id, destination, state, attempts, available_at, created_at, status, message"
    " FROM delivery",
    "SELECT * FROM event",
)


def rows(path: Path, *queries: str) -> list[list[tuple[Any, ...]]]:
    """What a file holds."""
    with closing(sqlite3.connect(path)) as connection:
        return [connection.execute(query).fetchall() for query in queries]


def schema(path: Path) -> tuple[int, list[tuple[Any, ...]]]:
    """Its version, and all that makes up the schema of a file."""
    [[(version,)], entries] = rows(
        path, "PRAGMA user_version", "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
    )
    return version, entries


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, path: Path) -> Path:
    """A journal of each version."""
    make_old_journal(path, request.param)
    return path


@pytest.fixture
def migrated(old: Path) -> Iterator[Journal]:
    journal = Journal(old)
    yield journal
    journal.close()


def test_nothing_is_lost_and_all_fits_together(old: Path) -> None:
    before = rows(old, *_KEPT)
    journal = Journal(old)
    inspection = journal.inspection
    assert inspection.schema() == (NEWEST, NEWEST)
    assert (inspection.damage(), inspection.dangling(), inspection.miscounts()) == (None, [], [])
    journal.close()
    assert rows(old, *_KEPT) == before


def test_the_schema_is_that_of_a_new_journal(old: Path, tmp_path: Path) -> None:
    Journal(old).close()
    Journal(tmp_path / "new" / "journal.sqlite3").close()
    assert schema(old) == schema(tmp_path / "new" / "journal.sqlite3")


def test_the_work_goes_on(migrated: Journal) -> None:
    """What was at work when the old version was killed is done, each once; what was done is not done again."""
    assert migrated.jobs.recover("worker-0", 500, 3) == 1
    done = []
    while (job := migrated.jobs.claim("worker-0", 500, 60)) is not None:
        succeed(migrated, job, now=501, kinds=["sr"])
        done.append(job.job_id)
    assert done[:2] == [2, 4]
    assert migrated.deliveries.recover("pacs") == 1
    sent = migrated.deliveries.claim("pacs", 1000, 10)
    assert {delivery.delivery_id for delivery in sent} >= {2, 4} and 1 not in {one.delivery_id for one in sent}
    migrated.deliveries.delivered([Answered(delivery, 502, 0) for delivery in sent])
    assert migrated.deliveries.requeue(503, "pacs") == 1
    assert migrated.jobs.requeue(3, 503) and claim(migrated, now=504).job_id == 3
    late = register(migrated, received("1.1.1.3", series="1.1.1", study="1.1", at=600), forward_to=["archive"])
    assert (late.series_id, late.revision, late.reopened) == (1, 2, True)
    complete(migrated, 1000, [])
    assert migrated.inspection.miscounts() == []


def test_what_was_kept_can_be_deleted(migrated: Journal) -> None:
    migrated.jobs.recover("worker-0", 500, 0)
    complete(migrated, 1000, [])
    while (job := migrated.jobs.claim("worker-0", 500, 60)) is not None:
        migrated.jobs.unsuitable(job, "worker-0", 501, "gap", "why", {})
    for destination in ("pacs", "archive"):
        migrated.deliveries.recover(destination)
        for delivery in migrated.deliveries.claim(destination, 1000, 10):
            migrated.deliveries.fail(delivery.delivery_id, 502, None, "gone")
    if migrated.activations.all():
        migrated.activations.shadow("brain", None, 503)
    for pending in migrated.commitments.pending():
        migrated.commitments.judged(pending.commitment_id, [], 504)
        migrated.commitments.reported(pending.commitment_id, 505, 0)
    everything = Limits(1e9, 1e9)
    for study_id in migrated.retention.studies(1e9):
        while migrated.retention.delete_series(study_id, everything, reason="age", now=2000) is not None:
            pass
    assert migrated.retention.studies(1e9) == []
    assert (migrated.inspection.dangling(), migrated.inspection.miscounts()) == ([], [])


_STATEMENTS = sum(len(list(database._statements(script.read_text()))) for script in SCRIPTS)


@pytest.mark.parametrize("killed_at", [1, 2, *range(5, _STATEMENTS, 17), _STATEMENTS])
def test_a_kill_leaves_the_old_or_the_new_version(path: Path, tmp_path: Path, killed_at: int) -> None:
    """Of each step: never something in between. The next start goes on from there."""
    make_old_journal(path, 1)
    before = rows(path, *_KEPT)
    child = os.fork()
    if child == 0:
        _migrate_until(path, killed_at)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    version, found = schema(path)
    make_old_journal(tmp_path / "whole" / "journal.sqlite3", version)
    assert (version, found) == schema(tmp_path / "whole" / "journal.sqlite3")
    assert rows(path, *_KEPT) == before
    Journal(path).close()
    assert schema(path)[0] == NEWEST and rows(path, *_KEPT) == before


def _migrate_until(path: Path, statements: int) -> None:
    """Migrate, and be killed after so many statements of the schema's files; never returns."""
    original, seen = database._statements, 0

    def counted(script: str) -> Iterator[str]:
        nonlocal seen
        for statement in original(script):
            yield statement
            seen += 1
            if seen == statements:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        database._statements = counted  # type: ignore[assignment]
        Journal(path).close()
        os.kill(os.getpid(), signal.SIGKILL)  # it had fewer: killed right after the last
    finally:
        os._exit(1)
