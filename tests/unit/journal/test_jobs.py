"""Jobs: the order of claims, leases, attempts, and how a job ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.domain.states import JobState, Scope
from appliance.journal.jobs import LeaseLost
from appliance.journal.journal import Journal
from appliance.journal.records import ClaimedJob
from tests.unit.journal.makers import claim, complete, dump, queue_job, received, register, result, succeed


def the_job(journal: Journal) -> tuple[JobState, int, str | None]:
    """State, attempts and reason of the newest job."""
    [job] = journal.overview.jobs(1)
    return job.state, job.attempts, job.reason


def test_the_oldest_is_claimed_first(journal: Journal) -> None:
    for name, at in (("1", 120.0), ("2", 100.0), ("3", 110.0)):
        queue_job(journal, name, at=at)
    assert [claim(journal).created_at for _ in range(3)] == [100, 110, 120]
    assert journal.jobs.claim("worker-0", 200, 60) is None


def test_rank_goes_before_age(journal: Journal, sql: sqlite3.Connection) -> None:
    queue_job(journal, "1", at=100)
    queue_job(journal, "2", at=110)
    sql.execute("UPDATE job SET rank = rank - 3600 WHERE job_id = 2")
    assert [claim(journal).job_id for _ in range(2)] == [2, 1]


def test_a_job_that_waits_for_its_next_attempt_keeps_no_other_waiting(journal: Journal) -> None:
    queue_job(journal, "1", at=100)
    queue_job(journal, "2", at=110)
    first = claim(journal)
    journal.jobs.fail(first, "worker-0", 200, "InferenceFailed", "x", retry_at=300, max_attempts=3)
    assert journal.jobs.next_available_at() == 110
    assert claim(journal).job_id == 2
    assert journal.jobs.claim("worker-0", 299, 60) is None
    assert journal.jobs.next_available_at() == 300
    assert claim(journal, now=300).job_id == first.job_id


def test_next_available_at_of_an_empty_queue(journal: Journal) -> None:
    assert journal.jobs.next_available_at() is None


def test_a_claim_tells_all_that_the_worker_needs(journal: Journal) -> None:
    register(journal, received("1.1", at=100))
    complete(journal, 130)
    job = claim(journal, now=135, lease_s=10)
    assert (job.attempt, job.scope, job.revision, job.claimed_at) == (1, Scope.SERIES, 1, 135)
    queue_job(journal, "2")
    assert claim(journal).scope is Scope.INSTANCE


def test_success_writes_results_deliveries_and_times_in_one_go(journal: Journal) -> None:
    queue_job(journal, "1")
    job = claim(journal)
    succeed(journal, job, kinds=("sr", "seg"), destinations=("pacs", "share"))
    assert the_job(journal) == (JobState.SUCCEEDED, 1, None)
    assert journal.overview.stages(job.job_id) == {"load": 0.5, "infer": 1.5}
    assert journal.overview.tally()["delivery"]["queued"] == 4
    assert {d.kind for d in journal.deliveries.claim("share", 220, 10)} == {"sr", "seg"}


def test_a_destination_gets_only_the_kinds_that_it_wants(journal: Journal, sql: sqlite3.Connection) -> None:
    queue_job(journal, "1")
    job = claim(journal)
    journal.jobs.succeed(
        job,
        "worker-0",
        210,
        result_json='{"brain": 1}',
        results=[result("9.1", "sr"), result("9.2", "sc")],
        destinations={"pacs": ["sr", "seg", "sc"], "emr": ["sr"], "none": []},
        stages={},
    )
    assert [d.kind for d in journal.deliveries.claim("emr", 220, 10)] == ["sr"]
    assert [d.kind for d in journal.deliveries.claim("pacs", 220, 10)] == ["sr", "sc"]
    assert journal.deliveries.claim("none", 220, 10) == []
    assert sql.execute("SELECT result FROM job").fetchone()[0] == '{"brain": 1}'


def test_a_success_that_cannot_be_written_whole_is_not_written_at_all(journal: Journal, path: Path) -> None:
    """Two results under one UID: neither the success nor the first of the results stays."""
    queue_job(journal, "1")
    job = claim(journal)
    before = dump(path)
    with pytest.raises(sqlite3.IntegrityError):
        journal.jobs.succeed(
            job,
            "worker-0",
            210,
            result_json="{}",
            results=[result("9.1"), result("9.1", "seg")],
            destinations={"pacs": ["sr", "seg"]},
            stages={"infer": 1.0},
        )
    assert dump(path) == before


def test_an_unsuitable_image_ends_its_job_with_the_reason(journal: Journal) -> None:
    queue_job(journal, "1")
    journal.jobs.unsuitable(claim(journal), "worker-0", 210, "gap", "two slices are missing", {"load": 0.1})
    assert the_job(journal) == (JobState.UNSUITABLE, 1, "gap")
    assert journal.jobs.next_available_at() is None


def test_a_failure_is_tried_again_until_the_attempts_are_used_up(journal: Journal) -> None:
    queue_job(journal, "1")
    for attempt in (1, 2):
        job = claim(journal, now=200 + attempt)
        assert job.attempt == attempt
        assert journal.jobs.fail(job, "worker-0", 200, "defect", "why", retry_at=200, max_attempts=3)
    job = claim(journal, now=210)
    assert not journal.jobs.fail(job, "worker-0", 211, "defect", "why", retry_at=220, max_attempts=3)
    assert the_job(journal) == (JobState.FAILED, 3, "defect")


def test_a_failure_that_no_retry_mends_ends_at_once(journal: Journal) -> None:
    queue_job(journal, "1")
    assert not journal.jobs.fail(claim(journal), "worker-0", 211, "defect", "why", retry_at=None, max_attempts=3)
    assert the_job(journal) == (JobState.FAILED, 1, "defect")


def test_success_forgets_the_reason_of_the_failure_before(journal: Journal) -> None:
    queue_job(journal, "1")
    journal.jobs.fail(claim(journal), "worker-0", 200, "defect", "why", retry_at=200, max_attempts=3)
    job = claim(journal)
    succeed(journal, job)
    assert the_job(journal) == (JobState.SUCCEEDED, 2, None)


def test_giving_back_does_not_count(journal: Journal) -> None:
    queue_job(journal, "1")
    for _ in range(5):
        job = claim(journal)
        assert job.attempt == 1
        journal.jobs.give_back(job, "worker-0")
    assert the_job(journal) == (JobState.QUEUED, 0, None)


ENDINGS: dict[str, Callable[[Journal, ClaimedJob, str], object]] = {
    "succeed": lambda journal, job, owner: succeed(journal, job, owner),
    "unsuitable": lambda journal, job, owner: journal.jobs.unsuitable(job, owner, 300, "gap", "why", {"load": 1.0}),
    "fail for good": lambda journal, job, owner: journal.jobs.fail(
        job, owner, 300, "defect", "why", retry_at=None, max_attempts=3
    ),
    "fail for now": lambda journal, job, owner: journal.jobs.fail(
        job, owner, 300, "defect", "why", retry_at=301, max_attempts=3
    ),
    "give back": lambda journal, job, owner: journal.jobs.give_back(job, owner),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_who_has_lost_the_lease_writes_nothing(journal: Journal, path: Path, ending: str) -> None:
    queue_job(journal, "1")
    lost = claim(journal, "worker-0", now=200, lease_s=10)
    assert journal.jobs.recover("worker-1", 211, 3) == 1
    queued = dump(path)
    with pytest.raises(LeaseLost):
        ENDINGS[ending](journal, lost, "worker-0")
    assert dump(path) == queued

    claim(journal, "worker-1", now=212)
    claimed = dump(path)
    with pytest.raises(LeaseLost):
        ENDINGS[ending](journal, lost, "worker-0")
    assert dump(path) == claimed


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_earlier_attempt_of_the_same_worker_writes_nothing(journal: Journal, path: Path, ending: str) -> None:
    """A worker that lost its job and claimed it again must not end the second attempt with the first one's result."""
    queue_job(journal, "1")
    lost = claim(journal, "worker-0", now=200, lease_s=10)
    journal.jobs.recover("worker-1", 211, 3)
    claim(journal, "worker-0", now=212)
    before = dump(path)
    with pytest.raises(LeaseLost):
        ENDINGS[ending](journal, lost, "worker-0")
    assert dump(path) == before


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_job_ends_twice(journal: Journal, path: Path, ending: str) -> None:
    queue_job(journal, "1")
    job = claim(journal)
    succeed(journal, job)
    before = dump(path)
    with pytest.raises(LeaseLost):
        ENDINGS[ending](journal, job, "worker-0")
    assert dump(path) == before


def test_whose_job_it_is_can_be_asked(journal: Journal, path: Path) -> None:
    queue_job(journal, "1")
    job = claim(journal)
    before = dump(path)
    journal.jobs.require_lease(job, "worker-0")
    with pytest.raises(LeaseLost, match="job 1 was given to another worker"):
        journal.jobs.require_lease(job, "worker-1")
    assert dump(path) == before
    succeed(journal, job)
    with pytest.raises(LeaseLost):
        journal.jobs.require_lease(job, "worker-0")


def test_a_lease_that_is_extended_is_kept(journal: Journal) -> None:
    queue_job(journal, "1")
    job = claim(journal, "worker-0", now=200, lease_s=10)
    journal.jobs.extend("worker-0", 260)
    journal.jobs.extend("worker-1", 9999)
    assert journal.jobs.recover("worker-1", 259, 3) == 0
    assert journal.jobs.recover("worker-1", 261, 3) == 1
    with pytest.raises(LeaseLost):
        succeed(journal, job)


def test_recover_takes_back_what_the_same_worker_held_in_its_earlier_life(journal: Journal) -> None:
    queue_job(journal, "1")
    queue_job(journal, "2")
    claim(journal, "worker-0", now=200)
    claim(journal, "worker-1", now=200)
    assert journal.jobs.recover("worker-0", 201, 3) == 1
    assert journal.overview.tally()["job"]["running"] == 1
    assert claim(journal, now=201).attempt == 2


def test_recover_gives_up_what_has_used_up_its_attempts(journal: Journal) -> None:
    """It may be what kills the workers."""
    queue_job(journal, "1")
    for _ in range(2):
        claim(journal)
        assert journal.jobs.recover("worker-0", 201, 3) == 1
    claim(journal)
    assert journal.jobs.recover("worker-0", 230, 3) == 1
    [job] = journal.overview.jobs(1)
    assert (job.state, job.attempts, job.reason, job.finished_at) == (JobState.FAILED, 3, "crash", 230)
    assert job.message is not None and "3 time(s)" in job.message and "appliance requeue" in job.message


def test_an_expired_lease_is_taken_over_while_the_others_run_on(journal: Journal) -> None:
    """Also when the worker that held it never comes back, as one that was taken from the settings."""
    queue_job(journal, "1")
    queue_job(journal, "2")
    lost, kept = claim(journal, "worker-1", now=200, lease_s=10), claim(journal, "worker-0", now=200, lease_s=60)
    assert journal.jobs.recover_expired(209, 3) == 0
    assert journal.jobs.recover_expired(211, 3) == 1
    again = claim(journal, "worker-0", now=211)
    assert (again.job_id, again.attempt) == (lost.job_id, 2)
    succeed(journal, kept)
    with pytest.raises(LeaseLost):
        succeed(journal, lost, "worker-1")


def test_an_expired_lease_on_the_last_attempt_is_given_up(journal: Journal) -> None:
    queue_job(journal, "1")
    claim(journal, "worker-1", now=200, lease_s=10)
    assert journal.jobs.recover_expired(211, 1) == 1
    assert the_job(journal) == (JobState.FAILED, 1, "crash")


def test_recover_finds_nothing_to_do(journal: Journal, path: Path) -> None:
    queue_job(journal, "1")
    before = dump(path)
    assert journal.jobs.recover("worker-0", 201, 3) == 0
    assert journal.jobs.recover_expired(201, 3) == 0
    assert dump(path) == before


@pytest.mark.parametrize("ending", ["unsuitable", "fail for good"])
def test_an_operator_lets_a_job_run_again_with_all_its_attempts(journal: Journal, ending: str) -> None:
    queue_job(journal, "1")
    job = claim(journal)
    ENDINGS[ending](journal, job, "worker-0")
    assert journal.jobs.requeue(job.job_id, 400)
    assert the_job(journal) == (JobState.QUEUED, 0, None)
    assert journal.jobs.claim("worker-0", 399, 60) is None
    assert claim(journal, now=400).attempt == 1


def test_what_is_not_failed_cannot_be_requeued(journal: Journal, path: Path) -> None:
    queue_job(journal, "1")
    job = claim(journal)
    before = dump(path)
    assert not journal.jobs.requeue(job.job_id, 400)
    assert not journal.jobs.requeue(4711, 400)
    assert dump(path) == before


def test_the_first_revision_replaces_nothing(journal: Journal) -> None:
    queue_job(journal, "1")
    assert journal.jobs.predecessor(claim(journal)) is None


def test_the_predecessor_is_the_newest_earlier_report_of_the_same_model(journal: Journal) -> None:
    register(journal, received("1.1", at=100))
    complete(journal, 130)
    succeed(journal, claim(journal))  # revision 1: a report
    register(journal, received("1.2", at=140))
    complete(journal, 170)
    journal.jobs.unsuitable(claim(journal), "worker-0", 210, "gap", "why", {})  # revision 2: none
    register(journal, received("1.3", at=180))
    complete(journal, 220)
    third = claim(journal, now=220)
    assert third.revision == 3
    assert journal.jobs.predecessor(third) == ("9.1.1.0", "9.1.1.0.0")


def two_revisions(journal: Journal) -> ClaimedJob:
    """A series whose first revision is at a worker when a late image makes the second; return that job."""
    register(journal, received("1.1", at=100))
    complete(journal, 130)
    first = claim(journal, now=130)
    register(journal, received("1.2", at=140))
    complete(journal, 170)
    return first


def test_a_revision_waits_for_the_worker_that_is_at_an_earlier_one(journal: Journal) -> None:
    """So that its report can name the other, and is sent after it."""
    first = two_revisions(journal)
    assert journal.jobs.claim("worker-1", 171, 60) is None
    queue_job(journal, "2", at=172)
    assert claim(journal, "worker-1", now=172).series_id != first.series_id
    succeed(journal, first, now=173)
    second = claim(journal, "worker-1", now=173)
    assert (second.series_id, second.revision) == (first.series_id, 2)
    assert journal.jobs.predecessor(second) is not None


@pytest.mark.parametrize("how", ["fail", "give back", "recover", "expire"])
def test_a_job_that_comes_back_after_a_late_image_is_superseded(journal: Journal, how: str) -> None:
    first = two_revisions(journal)
    match how:
        case "fail":
            journal.jobs.fail(first, "worker-0", 171, "hiccup", "why", retry_at=172, max_attempts=3)
        case "give back":
            journal.jobs.give_back(first, "worker-0")
        case "recover":
            journal.jobs.recover("worker-0", 171, 3)
        case "expire":
            journal.jobs.recover_expired(1000, 3)
    assert journal.overview.jobs(2)[1].state is JobState.SUPERSEDED
    second = claim(journal, now=1000)
    assert second.revision == 2
    assert journal.jobs.claim("worker-1", 1000, 60) is None


def test_a_failed_job_of_an_earlier_revision_is_not_requeued(journal: Journal) -> None:
    first = two_revisions(journal)
    journal.jobs.fail(first, "worker-0", 171, "defect", "why", retry_at=None, max_attempts=3)
    assert not journal.jobs.requeue(first.job_id, 172)
    second = claim(journal, now=172)
    journal.jobs.fail(second, "worker-0", 173, "defect", "why", retry_at=None, max_attempts=3)
    assert journal.jobs.requeue(second.job_id, 174)
