"""Waits after the clock was set back: nothing is due later than it could be if the clock had always been right."""

from __future__ import annotations

import sqlite3

from appliance.journal.journal import Journal
from appliance.journal.waits import LongestWaits
from tests.unit.journal.makers import STABLE_AGE_S, claim, complete, queue_job, received, register, succeed

DAY_S = 86400.0
NOW = 1000.0
LONGEST = LongestWaits(series=STABLE_AGE_S, job=5.0, lease=60.0, delivery=300.0, commitment=300.0)


def test_what_a_fast_clock_has_put_off_is_due_now(journal: Journal) -> None:
    queue_job(journal, "1", at=NOW + DAY_S)
    register(journal, received("2.3", series="2.2", study="2.1", at=NOW + DAY_S))
    assert journal.jobs.claim("worker-0", NOW, 60.0) is None
    assert journal.waits.shorten(NOW, LONGEST) == 3  # two series wait for more images
    assert claim(journal, now=NOW).job_id == 1
    assert complete(journal, NOW) == ([], [])
    _, jobs = complete(journal, NOW + STABLE_AGE_S)
    assert jobs == [1, 1]


def test_a_job_of_a_fast_clock_keeps_its_place(journal: Journal) -> None:
    queue_job(journal, "1", at=NOW + DAY_S)
    journal.waits.shorten(NOW, LONGEST)
    queue_job(journal, "2", at=NOW + 1)
    assert claim(journal, now=NOW + 2).job_id == 1


def test_a_lease_of_a_fast_clock_runs_out(journal: Journal) -> None:
    queue_job(journal, "1", at=NOW)
    claim(journal, now=NOW + DAY_S)
    journal.waits.shorten(NOW, LONGEST)
    assert journal.jobs.recover_expired(NOW + 59.0, 3) == 0
    assert journal.jobs.recover_expired(NOW + 61.0, 3) == 1


def test_a_delivery_of_a_fast_clock_is_due(journal: Journal) -> None:
    queue_job(journal, "1", at=NOW)
    succeed(journal, claim(journal, now=NOW), now=NOW + DAY_S, kinds=["sr"])
    assert journal.deliveries.claim("pacs", NOW, 10) == []
    journal.waits.shorten(NOW, LONGEST)
    assert len(journal.deliveries.claim("pacs", NOW, 10)) == 1


def test_usual_waits_are_left_alone(journal: Journal, sql: sqlite3.Connection) -> None:
    queue_job(journal, "1", at=NOW)
    job = claim(journal, now=NOW)
    journal.jobs.fail(job, "worker-0", NOW, "io-error", "once more", retry_at=NOW + 5.0, max_attempts=3)
    before = list(map(tuple, sql.execute("SELECT settle_at FROM series UNION ALL SELECT available_at FROM job")))
    assert journal.waits.shorten(NOW, LONGEST) == 0
    assert before == list(
        map(tuple, sql.execute("SELECT settle_at FROM series UNION ALL SELECT available_at FROM job"))
    )
