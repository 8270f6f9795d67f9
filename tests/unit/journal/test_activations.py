"""Which version serves: each change with its event, and no job lost by one, whoever did not hear of it in time."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from appliance.domain.states import JobState
from appliance.errors import JournalError
from appliance.journal.jobs import ActivationsChanged
from appliance.journal.journal import Journal
from appliance.journal.records import Activation, ActivationEvent, Assessment, ModelVersion
from tests.unit.journal.makers import claim, queue_job, received, register, succeed

V1, V2 = ModelVersion("1.0.0", "float32"), ModelVersion("1.1.0", "float32")
V2_HALF = ModelVersion("1.1.0", "float16")


def activation(journal: Journal) -> Activation:
    return journal.activations.all()["brain"]


def events(sql: sqlite3.Connection) -> list[tuple[Any, ...]]:
    rows = sql.execute("SELECT event, version, precision, shadow_version FROM activation_event ORDER BY event_id")
    return [tuple(row) for row in rows]


def queue(journal: Journal, name: str, version: str, *, shadow: bool = False) -> None:
    register(
        journal,
        received(f"{name}.3", series=f"{name}.2", study=f"{name}.1"),
        [Assessment("brain", version, None, shadow)],
    )


def jobs(journal: Journal) -> list[tuple[str, str]]:
    """Version and state of all jobs, in the order in which they were made."""
    return [(view.model_version, str(view.state)) for view in reversed(journal.overview.jobs(100))]


def test_a_new_journal_knows_no_model(journal: Journal) -> None:
    assert journal.activations.generation() == 0
    assert journal.activations.all() == {}


def test_the_first_role_that_sees_a_model_adopts_it(journal: Journal) -> None:
    assert journal.activations.adopt("brain", V1, 100)
    assert not journal.activations.adopt("brain", V2, 101)
    assert activation(journal) == Activation("brain", active=V1)


def test_each_change_leaves_an_event_and_a_new_generation(journal: Journal, sql: sqlite3.Connection) -> None:
    activations, generations = journal.activations, [0]
    for change in (
        lambda: activations.adopt("brain", V1, 100),
        lambda: activations.shadow("brain", V2_HALF, 101),
        lambda: activations.activate("brain", V2_HALF, 102),
        lambda: activations.activate("brain", V2, 103),
        lambda: activations.roll_back("brain", 104),
        lambda: activations.deactivate("brain", 105),
        lambda: activations.pin("brain", V1, 106),
    ):
        assert change()
        generations.append(activations.generation())
    assert generations == sorted(set(generations))
    assert events(sql) == [
        ("adopted", "1.0.0", "float32", None),
        ("shadow began", "1.0.0", "float32", "1.1.0"),
        ("activated", "1.1.0", "float16", None),
        ("activated", "1.1.0", "float32", None),
        ("rolled back", "1.1.0", "float16", None),
        ("deactivated", None, None, None),
        ("pinned", "1.0.0", "float32", None),
    ]


def test_the_history_tells_the_newest_first(journal: Journal) -> None:
    journal.activations.adopt("brain", V1, 100)
    journal.activations.shadow("brain", V2_HALF, 101)
    journal.activations.activate("brain", V2, 102)
    assert journal.activations.history("brain", 2) == [
        ActivationEvent(102, "activated", V2, V2_HALF),
        ActivationEvent(101, "shadow began", V1, V2_HALF),
    ]
    assert str(V2_HALF) == "1.1.0 in float16"


def test_what_is_so_already_is_no_change(journal: Journal) -> None:
    activations = journal.activations
    activations.activate("brain", V1, 100)
    activations.shadow("brain", V2, 100)
    before = activations.generation()
    assert not activations.activate("brain", V1, 101)
    assert not activations.pin("brain", ModelVersion("1.0.0", "float16"), 101)
    assert not activations.shadow("brain", V2, 101)
    assert activations.generation() == before


def test_the_roles_can_be_made_to_look_again(journal: Journal, sql: sqlite3.Connection) -> None:
    assert not journal.activations.look_again("brain", "weights fetched", 99)
    journal.activations.activate("brain", V1, 100)
    before = journal.activations.generation(), journal.activations.all()
    assert journal.activations.look_again("brain", "weights fetched", 101)
    assert journal.activations.generation() > before[0]
    assert journal.activations.all() == before[1]
    assert events(sql)[-1] == ("weights fetched", "1.0.0", "float32", None)


def test_a_rollback_can_be_rolled_back(journal: Journal) -> None:
    journal.activations.activate("brain", V1, 100)
    journal.activations.activate("brain", V2, 101)
    assert journal.activations.roll_back("brain", 102) == V1
    assert activation(journal) == Activation("brain", active=V1, previous=V2)
    assert journal.activations.roll_back("brain", 103) == V2


def test_a_deactivated_model_comes_back_by_a_rollback(journal: Journal) -> None:
    journal.activations.activate("brain", V1, 100)
    journal.activations.deactivate("brain", 101)
    assert activation(journal) == Activation("brain", previous=V1)
    journal.activations.roll_back("brain", 102)
    assert activation(journal) == Activation("brain", active=V1)


def test_nothing_to_go_back_to(journal: Journal) -> None:
    journal.activations.activate("brain", V1, 100)
    with pytest.raises(JournalError, match="no earlier version of brain to go back to"):
        journal.activations.roll_back("brain", 101)


def test_queued_jobs_move_and_the_running_one_stays(journal: Journal, sql: sqlite3.Connection) -> None:
    journal.activations.activate("brain", V1, 100)
    for name in ("1", "2", "3"):
        queue(journal, name, "1.0.0")
    running = claim(journal)
    queue_job(journal, "4", model="lung")
    journal.activations.activate("brain", V2, 150)
    assert jobs(journal) == [("1.0.0", "running"), ("1.1.0", "queued"), ("1.1.0", "queued"), ("1.0.0", "queued")]
    succeed(journal, running)
    assert jobs(journal)[0] == ("1.0.0", "succeeded")
    moves = sql.execute("SELECT row_id, event FROM event WHERE from_state = 'queued' AND to_state = 'queued'")
    assert [tuple(row) for row in moves] == [(number, "moved from version 1.0.0 to 1.1.0") for number in (2, 3)]


@pytest.mark.parametrize("way", ["given back", "tried again", "left by a dead worker", "requeued"])
def test_a_job_that_comes_back_goes_to_the_version_that_serves(journal: Journal, way: str) -> None:
    journal.activations.activate("brain", V1, 100)
    queue(journal, "1", "1.0.0")
    job = claim(journal)
    journal.activations.activate("brain", V2, 150)
    if way == "given back":
        journal.jobs.give_back(job, "worker-0")
    elif way == "tried again":
        assert journal.jobs.fail(job, "worker-0", 210, "x", "why", retry_at=211, max_attempts=3)
    elif way == "left by a dead worker":
        assert journal.jobs.recover("worker-0", 1000, 3) == 1
    else:
        journal.jobs.fail(job, "worker-0", 210, "x", "why", retry_at=None, max_attempts=3)
        assert journal.jobs.requeue(job.job_id, 220)
    assert jobs(journal) == [("1.1.0", "queued")]


def test_a_receiver_that_has_not_heard_of_the_change(journal: Journal) -> None:
    """Its job is one of the version that serves from the start."""
    journal.activations.activate("brain", V2, 100)
    queue(journal, "1", "1.0.0")
    assert jobs(journal) == [("1.1.0", "queued")]
    assert claim(journal).model_version == "1.1.0"


def test_a_second_job_for_the_same_images_is_superseded(journal: Journal, sql: sqlite3.Connection) -> None:
    """No way leads there but by hand; the index would refuse the move, and the activation with it."""
    journal.activations.activate("brain", V1, 100)
    queue(journal, "1", "1.0.0")
    sql.execute(
        "INSERT INTO job (series_id, instance_id, revision, model, model_version, rank, available_at,"
        " first_received_at, last_received_at, created_at) SELECT series_id, instance_id, revision, 'other', '1.1.0',"
        " rank, available_at, first_received_at, last_received_at, created_at FROM job"
    )
    sql.execute("UPDATE job SET model = 'brain' WHERE model = 'other'")
    journal.activations.activate("brain", V2, 150)
    assert jobs(journal) == [("1.0.0", "superseded"), ("1.1.0", "queued")]


def test_jobs_of_a_deactivated_model_fail_with_the_mend_and_can_be_requeued(journal: Journal) -> None:
    journal.activations.activate("brain", V1, 100)
    queue(journal, "1", "1.0.0")
    journal.activations.deactivate("brain", 150)
    (view,) = journal.overview.jobs(1)
    assert (view.state, view.reason) == (JobState.FAILED, "deactivated")
    assert "Activate it, then: appliance requeue" in (view.message or "")
    journal.activations.activate("brain", V2, 160)
    assert journal.jobs.requeue(view.job_id, 170)
    assert jobs(journal) == [("1.1.0", "queued")]


def test_nobody_claims_for_a_version_that_stopped_serving(journal: Journal) -> None:
    journal.activations.activate("brain", V1, 100)
    known = journal.activations.generation()
    queue(journal, "1", "1.0.0")
    journal.activations.activate("brain", V2, 150)
    with pytest.raises(ActivationsChanged):
        journal.jobs.claim("worker-0", 200, 60, generation_known=known)
    assert jobs(journal) == [("1.1.0", "queued")]


def test_jobs_of_a_version_that_is_being_opened_wait_and_others_do_not(journal: Journal) -> None:
    queue(journal, "1", "1.0.0")
    queue_job(journal, "2", model="lung")
    opening = [("brain", "1.0.0", False)]
    assert journal.jobs.next_available_at(opening) == 100
    job = journal.jobs.claim("worker-0", 200, 60, not_yet=opening)
    assert job is not None and job.model == "lung"
    assert journal.jobs.claim("worker-0", 200, 60, not_yet=opening) is None
    assert journal.jobs.next_available_at(opening) is None
    assert claim(journal).model == "brain"


def test_shadows_come_last_and_are_never_delivered(journal: Journal, sql: sqlite3.Connection) -> None:
    journal.activations.activate("brain", V1, 50)
    journal.activations.shadow("brain", V2, 50)
    queue(journal, "1", "1.1.0", shadow=True)
    queue(journal, "2", "1.0.0")
    assert journal.overview.waiting().job == 100
    assert claim(journal).shadow is False
    job = claim(journal)
    assert job.shadow
    succeed(journal, job)
    assert sql.execute("SELECT count(*) FROM result").fetchone()[0] == 2
    assert sql.execute("SELECT count(*) FROM delivery").fetchone()[0] == 0
    with pytest.raises(sqlite3.IntegrityError, match="a result of a shadow is not delivered"):
        sql.execute("INSERT INTO delivery (result_id, destination, available_at, created_at) VALUES (1, 'pacs', 0, 0)")


def test_a_shadow_that_ends_disturbs_nothing(journal: Journal) -> None:
    journal.activations.activate("brain", V1, 50)
    journal.activations.shadow("brain", V2, 50)
    queue(journal, "1", "1.0.0")
    queue(journal, "2", "1.1.0", shadow=True)
    journal.activations.shadow("brain", None, 60)
    queue(journal, "3", "1.1.0", shadow=True)
    assert jobs(journal) == [("1.0.0", "queued"), ("1.1.0", "superseded"), ("1.1.0", "superseded")]
    tally = journal.overview.tally()
    assert tally["job"]["queued"] == 1 and tally["job"]["superseded"] == 0
    assert tally["shadow"]["superseded"] == 2


def test_a_failed_shadow_raises_no_alarm(journal: Journal) -> None:
    journal.activations.activate("brain", V1, 50)
    journal.activations.shadow("brain", V2, 50)
    queue(journal, "1", "1.1.0", shadow=True)
    journal.jobs.fail(claim(journal), "worker-0", 210, "x", "why", retry_at=None, max_attempts=3)
    assert journal.overview.failed_jobs(10) == []
    assert journal.overview.tally()["job"]["failed"] == 0
    assert journal.overview.tally()["shadow"]["failed"] == 1


def test_the_same_images_have_a_job_of_each_even_of_one_version(journal: Journal) -> None:
    """A version can run in its own shadow at another precision, and be activated at that precision."""
    journal.activations.activate("brain", V2, 50)
    journal.activations.shadow("brain", V2_HALF, 50)
    register(journal, received("1.3"), [Assessment("brain", "1.1.0", None), Assessment("brain", "1.1.0", None, True)])
    assert [claim(journal).shadow, claim(journal).shadow] == [False, True]
    journal.activations.activate("brain", V2_HALF, 60)
    assert activation(journal) == Activation("brain", active=V2_HALF, previous=V2)
