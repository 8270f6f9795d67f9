"""Reception: what is registered once, when a series is complete, and what a late image changes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from appliance.domain.states import JobState
from appliance.journal.journal import Journal
from appliance.journal.records import Assessment
from tests.unit.journal.makers import CT, NO, STABLE_AGE_S, YES, claim, complete, dump, received, register, succeed


def test_an_instance_that_nobody_has_seen(journal: Journal) -> None:
    assert journal.instances.find("1.1") is None
    registration = register(journal, received("1.1"))
    assert (registration.revision, registration.reopened, registration.jobs) == (1, False, 0)
    known = journal.instances.find("1.1")
    assert known is not None
    assert (known.instance_id, known.sha256) == (registration.instance_id, "sha256 of 1.1")
    assert known.path == "instances/1.2/1.2.3/1.1.dcm"


def test_the_same_uid_again_is_refused_and_nothing_is_written(journal: Journal, path: Path) -> None:
    register(journal, received("1.1"))
    before = dump(path)
    with pytest.raises(sqlite3.IntegrityError, match="sop_instance_uid"):
        register(journal, received("1.1", series="7.7", study="7"), [YES])
    assert dump(path) == before


def test_instances_of_one_series_share_it(journal: Journal) -> None:
    first = register(journal, received("1.1"))
    second = register(journal, received("1.2"))
    other = register(journal, received("1.3", series="4.5.6"))
    assert first.series_id == second.series_id != other.series_id


def test_the_same_series_uid_in_another_study_is_another_series(journal: Journal) -> None:
    """Series Instance UIDs are unique by the Standard; senders that copy studies break it."""
    assert (
        register(journal, received("1.1", study="5")).series_id
        != register(journal, received("1.2", study="6")).series_id
    )


def test_a_one_instance_model_gets_its_job_at_once(journal: Journal) -> None:
    registration = register(journal, received("1.1", at=100), [YES, NO])
    assert registration.jobs == 1
    job = claim(journal)
    assert (job.model, job.model_version, job.instance_id) == ("brain", "1.0.0", registration.instance_id)
    assert tuple(path for path, _ in job.images) == ("instances/1.2/1.2.3/1.1.dcm",)
    assert (job.first_received_at, job.last_received_at, job.created_at) == (100, 100, 100)
    assert journal.overview.refusals(10) == [(registration.series_id, NO.model, NO.refusal)]


def test_a_series_is_due_after_the_stable_age_of_its_last_image(journal: Journal) -> None:
    assert journal.instances.next_due_at() is None
    register(journal, received("1.1", at=100, attributes={"Modality": "CT"}))
    register(journal, received("1.2", at=110, frames=4, attributes={"Modality": "MR"}))
    assert journal.instances.next_due_at() == 110 + STABLE_AGE_S
    assert journal.instances.due(139.9) == []
    [series] = journal.instances.due(140)
    assert (series.sign, series.revision, series.image_count) == ("stable age", 1, 5)
    assert series.attributes == {"Modality": "CT"}  # of its first instance
    assert series.sop_class_uids == {CT}


def test_an_end_mark_brings_it_forward_and_never_back(journal: Journal) -> None:
    registration = register(journal, received("1.1", at=100))
    journal.instances.settle([registration.series_id], 105, "association released")
    journal.instances.settle([registration.series_id], 120, "later mark")
    [series] = journal.instances.due(105)
    assert series.sign == "association released"


def test_an_image_after_the_end_mark_begins_to_wait_anew(journal: Journal) -> None:
    registration = register(journal, received("1.1", at=100))
    journal.instances.settle([registration.series_id], 105, "association released")
    register(journal, received("1.2", at=104))
    assert journal.instances.due(105) == []
    assert journal.instances.next_due_at() == 104 + STABLE_AGE_S


def test_as_many_images_as_they_announce_settle_the_series(journal: Journal) -> None:
    assert not register(journal, received("1.1", at=100, announced=2)).awaited
    registration = register(journal, received("1.2", at=101, announced=2))
    assert registration.awaited
    [series] = journal.instances.due(102)
    assert (series.sign, series.missing) == ("images in acquisition", 0)
    # One more proves the number wrong: it says nothing any more, and holds nothing back.
    assert not register(journal, received("1.3", at=101.5, announced=2)).awaited
    journal.instances.settle([registration.series_id], 103, "association released")
    assert [found.sign for found in journal.instances.due(103)] == ["association released"]


def test_an_end_mark_of_a_series_with_all_announced_images_is_at_once(journal: Journal) -> None:
    register(journal, received("1.1", at=100, announced=2))
    registration = register(journal, received("1.2", at=101, announced=2))
    journal.instances.settle([registration.series_id], 102.01, "association released")
    [series] = journal.instances.due(101.01)
    assert series.sign == "images in acquisition"


def test_an_end_mark_while_announced_images_are_missing_does_not_count(journal: Journal) -> None:
    register(journal, received("1.1", at=100, announced=3))
    registration = register(journal, received("1.2", at=101, announced=3))
    journal.instances.settle([registration.series_id], 102, "association released")
    assert journal.instances.next_due_at() == 101 + STABLE_AGE_S
    [series] = journal.instances.due(200)
    assert (series.sign, series.image_count, series.missing) == ("stable age", 2, 1)
    complete(journal, 200)
    # The last one comes late: the number is reached by the next revision.
    assert register(journal, received("1.3", at=300, announced=3)).awaited
    [series] = journal.instances.due(301)
    assert (series.sign, series.revision, series.missing) == ("images in acquisition", 2, 0)


@pytest.mark.parametrize("announced", [(2, 3), (0, 2), (2, 0)])
def test_numbers_that_are_not_all_the_same_are_none(journal: Journal, announced: tuple[int, int]) -> None:
    for number, count in enumerate(announced):
        registration = register(journal, received(f"1.{number}", at=100, announced=count))
    assert not registration.awaited
    journal.instances.settle([registration.series_id], 101, "association released")
    assert [series.sign for series in journal.instances.due(101)] == ["association released"]


def test_an_end_mark_for_a_complete_series_changes_nothing(journal: Journal, path: Path) -> None:
    registration = register(journal, received("1.1", at=100))
    complete(journal, 130)
    before = dump(path)
    journal.instances.settle([registration.series_id, 4711], 1, "association released")
    assert dump(path) == before


def test_the_longest_due_comes_first(journal: Journal) -> None:
    later = register(journal, received("1.1", series="1", at=105)).series_id
    earlier = register(journal, received("1.2", series="2", at=100)).series_id
    assert [series.series_id for series in journal.instances.due(200)] == [earlier, later]


def test_complete_queues_a_job_for_each_yes(journal: Journal) -> None:
    register(journal, received("1.1", at=100))
    register(journal, received("1.2", at=110))
    due, jobs = complete(journal, 145, [YES, NO, Assessment("spine", "2.0.0", None)])
    assert jobs == [2]
    assert journal.instances.next_due_at() is None
    job = claim(journal)
    assert (job.series_id, job.instance_id, job.revision) == (due[0].series_id, None, 1)
    assert tuple(path for path, _ in job.images) == ("instances/1.2/1.2.3/1.1.dcm", "instances/1.2/1.2.3/1.2.dcm")
    assert (job.first_received_at, job.last_received_at, job.created_at) == (100, 110, 145)


def test_complete_twice_queues_once(journal: Journal) -> None:
    register(journal, received("1.1", at=100))
    [series] = journal.instances.due(130)
    assert journal.instances.complete(series, [YES], 130) == 1
    assert journal.instances.complete(series, [YES], 130) is None


def test_complete_refuses_when_an_image_came_in_between(journal: Journal) -> None:
    register(journal, received("1.1", at=100))
    [series] = journal.instances.due(130)
    register(journal, received("1.2", at=130))
    assert journal.instances.complete(series, [YES], 130) is None
    assert journal.overview.tally()["job"]["queued"] == 0


def test_complete_refuses_even_when_that_image_has_settled_too(journal: Journal) -> None:
    """With a settle time of 0 it is due again before the first answer is in: judged without it, it would be wrong."""
    registration = register(journal, received("1.1", at=100))
    [series] = journal.instances.due(130)
    register(journal, received("1.2", at=130))
    journal.instances.settle([registration.series_id], 130, "association released")
    assert journal.instances.complete(series, [YES], 130.1) is None
    [again] = journal.instances.due(130.1)
    assert again.image_count == 2
    assert journal.instances.complete(again, [YES], 130.1) == 1


def test_complete_refuses_a_revision_that_is_over(journal: Journal) -> None:
    register(journal, received("1.1", at=100))
    [series] = journal.instances.due(130)
    journal.instances.complete(series, [YES], 130)
    register(journal, received("1.2", at=140))
    assert journal.instances.complete(series, [YES], 500) is None


def test_a_late_image_opens_the_next_revision_and_supersedes_what_has_not_started(journal: Journal) -> None:
    register(journal, received("1.1", at=100))
    complete(journal, 130)
    late = register(journal, received("1.2", at=150))
    assert (late.revision, late.reopened) == (2, True)
    [job] = journal.overview.jobs(10)
    assert (job.state, job.reason, job.finished_at) == (JobState.SUPERSEDED, "late-image", 150)
    assert journal.jobs.claim("worker-0", 200, 60) is None
    due, jobs = complete(journal, 180)
    assert (due[0].revision, due[0].image_count, jobs) == (2, 2, [1])
    assert len(claim(journal).images) == 2


def test_a_late_image_leaves_alone_what_runs_and_what_is_done(journal: Journal) -> None:
    """Nothing vanishes: the earlier result stays, and the new one names it."""
    register(journal, received("1.1", at=100))
    complete(journal, 130, [YES, Assessment("spine", "1", None)])
    done, running = claim(journal), claim(journal)
    succeed(journal, done)
    register(journal, received("1.2", at=150))
    succeed(journal, running)
    complete(journal, 180)
    job = claim(journal)
    assert job.revision == 2
    assert journal.jobs.predecessor(job) == (f"9.{done.job_id}.1.0", f"9.{done.job_id}.1.0.0")


def test_a_running_job_has_only_the_images_of_its_revision(journal: Journal) -> None:
    """It must not become half of one revision and half of the next."""
    register(journal, received("1.1", at=100))
    complete(journal, 130)
    job = claim(journal)
    register(journal, received("1.2", at=150))
    assert tuple(path for path, _ in job.images) == ("instances/1.2/1.2.3/1.1.dcm",)
    journal.jobs.give_back(job, "worker-0")
    assert journal.jobs.claim("worker-0", 151, 60) is None
    complete(journal, 180)
    assert len(claim(journal).images) == 2


def test_a_late_image_leaves_one_instance_jobs_alone(journal: Journal) -> None:
    register(journal, received("1.1", at=100), [YES])
    complete(journal, 130, [NO])
    register(journal, received("1.2", at=150), [YES])
    assert journal.overview.tally()["job"]["queued"] == 2


def test_other_bytes_under_a_known_uid_are_noted_once(journal: Journal) -> None:
    instance_id = register(journal, received("1.1")).instance_id
    assert journal.instances.add_conflict(instance_id, "other", "conflicts/1.1/other.dcm", "dicom", 101)
    assert not journal.instances.add_conflict(instance_id, "other", "conflicts/1.1/other.dcm", "dicom", 102)
    assert journal.overview.kept_apart().conflicts == 1
    known = journal.instances.find("1.1")
    assert known is not None and known.sha256 == "sha256 of 1.1"


def test_rejections_are_kept_with_their_reason(journal: Journal) -> None:
    journal.instances.add_rejection("not-dicom", "it is a text", "rejected/a", "dropfolder", 100)
    journal.instances.add_rejection("empty", "it has no bytes", "rejected/b", "dropfolder", 101)
    apart = journal.overview.kept_apart()
    assert (apart.rejections, apart.newest_rejection) == (2, "it has no bytes")
