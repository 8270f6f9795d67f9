"""What the status pages and the metrics ask."""

from __future__ import annotations

from appliance.domain.states import JobState, Scope
from appliance.journal.journal import Journal
from appliance.journal.records import Assessment
from tests.unit.journal.makers import YES, claim, complete, queue_job, received, register, succeed


def test_nothing_waits_in_an_empty_journal(journal: Journal) -> None:
    waiting = journal.overview.waiting()
    assert (waiting.series, waiting.job, waiting.delivery) == (None, None, None)
    assert journal.overview.jobs(10) == []
    assert journal.overview.deliveries() == []
    assert journal.overview.refusals(10) == []
    apart = journal.overview.kept_apart()
    assert (apart.conflicts, apart.rejections, apart.newest_rejection) == (0, 0, None)


def test_the_oldest_of_each_kind(journal: Journal) -> None:
    queue_job(journal, "1", at=100)
    succeed(journal, claim(journal), now=210)
    queue_job(journal, "2", at=220)
    queue_job(journal, "3", at=230)
    waiting = journal.overview.waiting()
    assert (waiting.series, waiting.job, waiting.delivery) == (100, 220, 210)


def test_what_runs_does_not_wait(journal: Journal) -> None:
    queue_job(journal, "1", at=100)
    complete(journal, 200, [])
    claim(journal)
    assert journal.overview.waiting().job is None


def test_the_newest_jobs_come_first(journal: Journal) -> None:
    register(journal, received("8.8", series="8"))
    complete(journal, 200, [YES])
    for name in ("1", "2", "3"):
        queue_job(journal, name)
    complete(journal, 200, [YES])
    views = journal.overview.jobs(4)
    assert [view.job_id for view in views] == [7, 6, 5, 4]
    assert [view.scope for view in views] == [Scope.SERIES, Scope.SERIES, Scope.SERIES, Scope.INSTANCE]
    assert {view.state for view in views} == {JobState.QUEUED}


def test_stages_are_those_of_the_last_attempt(journal: Journal) -> None:
    queue_job(journal, "1")
    job = claim(journal)
    journal.jobs.unsuitable(job, "worker-0", 210, "gap", "why", {"load": 9.0})
    journal.jobs.requeue(job.job_id, 220)
    again = claim(journal, now=220)
    succeed(journal, again)
    assert journal.overview.stages(job.job_id) == {"load": 0.5, "infer": 1.5}
    assert journal.overview.stages(4711) == {}


def test_stages_of_attempts_before_a_requeue_are_forgotten(journal: Journal) -> None:
    """The attempts begin at 1 again: the times of an earlier attempt 2 are not those of the last one."""
    queue_job(journal, "1")
    journal.jobs.fail(claim(journal), "worker-0", 210, "defect", "why", retry_at=220, max_attempts=3)
    job = claim(journal, now=220)
    journal.jobs.unsuitable(job, "worker-0", 230, "gap", "why", {"load": 9.0, "queue": 8.0})
    journal.jobs.requeue(job.job_id, 240)
    succeed(journal, claim(journal, now=240))
    assert journal.overview.stages(job.job_id) == {"load": 0.5, "infer": 1.5}


def test_refusals_newest_first(journal: Journal) -> None:
    series = register(journal, received("1.1"), [Assessment("a", "1", "too few"), YES, Assessment("b", "1", "no")])
    assert journal.overview.refusals(10) == [(series.series_id, "b", "no"), (series.series_id, "a", "too few")]
    assert len(journal.overview.refusals(1)) == 1
