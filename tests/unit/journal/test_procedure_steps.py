"""Procedure steps in the journal: their states, the images that they list, and what of them is sent on."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.domain.states import ProcedureStepState
from appliance.journal.journal import Journal
from tests.unit.journal.makers import STABLE_AGE_S, complete, received, register

COMPLETED, DISCONTINUED = ProcedureStepState.COMPLETED, ProcedureStepState.DISCONTINUED
SERIES = "1.2.3"


def end(
    journal: Journal,
    *images: str,
    uid: str = "9.1",
    state: ProcedureStepState = COMPLETED,
    now: float = 200,
    series: str = SERIES,
) -> bool:
    """End a step that lists these images of one series."""
    journal.procedure_steps.create(uid, b"", now, send_on=False)
    step = journal.procedure_steps.find(uid)
    assert step is not None
    return journal.procedure_steps.change(
        step,
        state,
        b"",
        now,
        modification=b"",
        listed=[(series, image) for image in images],
        stable_age_s=STABLE_AGE_S,
        send_on=False,
    )


def due(journal: Journal, now: float) -> list[tuple[str, int, int]]:
    return [(series.sign, series.revision, series.missing) for series in journal.instances.due(now)]


def receive(journal: Journal, *numbers: int, at: float = 200, announced: int = 0) -> list[bool]:
    """Whether each was the last that was awaited."""
    return [register(journal, received(f"1.{n}", at=at, announced=announced)).awaited for n in numbers]


def test_all_images_of_a_completed_step_are_here(journal: Journal) -> None:
    receive(journal, 1, 2)
    assert end(journal, "1.1", "1.2", now=201)
    assert due(journal, 201) == [("mpps completed", 1, 0)]


def test_the_last_listed_image_completes_the_series_at_once(journal: Journal) -> None:
    assert receive(journal, 1) == [False]
    assert end(journal, "1.1", "1.2", "1.3", now=201)
    assert due(journal, 202) == []
    assert receive(journal, 3, 2, at=203) == [False, True]
    assert due(journal, 203) == [("mpps completed", 1, 0)]


def test_the_list_may_come_before_the_first_image(journal: Journal) -> None:
    assert end(journal, "1.1", "1.2", state=DISCONTINUED)
    assert receive(journal, 1, 2) == [False, True]
    assert due(journal, 200) == [("mpps discontinued", 1, 0)]


def test_while_listed_images_are_missing_no_other_sign_counts(journal: Journal) -> None:
    """Not a release, before or after the list, nor the images' own number, which may be of one acquisition of many."""
    receive(journal, 1, 2, announced=2)
    journal.instances.settle([1], 200.5, "association released")
    assert end(journal, "1.1", "1.2", "1.3", "1.4", now=200)
    assert due(journal, 201) == []
    assert journal.instances.next_due_at() == 200 + STABLE_AGE_S
    journal.instances.settle([1], 202, "association released")
    assert due(journal, 203) == []
    assert due(journal, 230) == [("stable age", 1, 2)]
    [view] = journal.overview.series(1)
    assert view.missing == 2


def test_images_that_come_after_all_complete_the_next_revision(journal: Journal) -> None:
    receive(journal, 1)
    end(journal, "1.1", "1.2", "1.3")
    complete(journal, 230)
    assert receive(journal, 2, 3, at=300) == [False, True]
    assert due(journal, 300) == [("mpps completed", 2, 0)]


def test_an_image_that_was_not_listed_waits_for_another_sign(journal: Journal) -> None:
    receive(journal, 1)
    end(journal, "1.1")
    complete(journal, 200)
    assert receive(journal, 2, at=210) == [False]
    assert journal.instances.next_due_at() == 210 + STABLE_AGE_S


def test_the_list_is_not_about_other_series(journal: Journal) -> None:
    register(journal, received("1.1", at=200))
    register(journal, received("5.1", series="5", at=200))
    end(journal, "5.2", series="5")
    end(journal, "1.1", uid="9.2")
    assert due(journal, 200) == [("mpps completed", 1, 0)]
    journal.instances.settle([1, 2], 200, "association released")
    assert len(journal.instances.due(200)) == 1


def test_a_step_that_was_changed_in_between_is_not_changed(journal: Journal) -> None:
    journal.procedure_steps.create("9.1", b"one", 100, send_on=False)
    step = journal.procedure_steps.find("9.1")
    assert step is not None
    going_on = {"modification": b"", "stable_age_s": 30.0, "send_on": False}
    assert journal.procedure_steps.change(step, step.state, b"two", 101, **going_on)
    assert not journal.procedure_steps.change(step, COMPLETED, b"three", 102, **going_on)
    found = journal.procedure_steps.find("9.1")
    assert found is not None
    assert (found.state, found.changes, found.data_set) == (ProcedureStepState.IN_PROGRESS, 1, b"two")


def test_old_steps_are_forgotten_with_what_they_listed_but_not_what_is_to_be_sent_on(journal: Journal) -> None:
    end(journal, "1.1", now=100)
    journal.procedure_steps.create("9.2", b"", 100, send_on=True)
    month = 30 * 86400
    journal.procedure_steps.create("9.3", b"", 101 + month, send_on=False)
    found = [journal.procedure_steps.find(uid) is not None for uid in ("9.1", "9.2", "9.3")]
    assert found == [False, True, True]
    assert journal.overview.tally()["procedure_step"] == {"in progress": 2, "completed": 0, "discontinued": 0}
    journal.instances.settle([register(journal, received("1.2", at=200)).series_id], 201, "association released")
    assert due(journal, 201) == [("association released", 1, 0)]


def told(journal: Journal, *steps: str) -> None:
    """Steps that begin and then go on, one after the other."""
    for uid in steps:
        assert journal.procedure_steps.create(uid, b"begun", 100, send_on=True)
    for uid in steps:
        step = journal.procedure_steps.find(uid)
        assert step is not None
        journal.procedure_steps.change(step, step.state, b"", 101, modification=b"set", stable_age_s=30, send_on=True)


def sent(journal: Journal, now: float, count: int) -> Sequence[tuple[str, str] | None]:
    found = []
    for _ in range(count):
        message = journal.step_messages.begin(now)
        found.append(None if message is None else (message.sop_instance_uid, message.operation))
        if message is not None:
            journal.step_messages.delivered(message.step_message_id, now, 0)
    return found


def test_messages_go_in_their_order(journal: Journal) -> None:
    told(journal, "9.1", "9.2")
    assert sent(journal, 102, 5) == [
        ("9.1", "N-CREATE"), ("9.2", "N-CREATE"), ("9.1", "N-SET"), ("9.2", "N-SET"), None,
    ]  # fmt: skip
    assert journal.step_messages.undone() == []


def test_a_message_that_waits_holds_up_its_own_step_only(journal: Journal) -> None:
    told(journal, "9.1", "9.2")
    message = journal.step_messages.begin(102)
    assert message is not None
    journal.step_messages.postpone(message.step_message_id, 150, 0x0110, "not now")
    assert sent(journal, 103, 3) == [("9.2", "N-CREATE"), ("9.2", "N-SET"), None]
    assert journal.step_messages.next_available_at() == 150
    [view] = journal.step_messages.undone()
    assert (view.state, view.count, view.oldest_created_at, view.message) == ("queued", 2, 100, "not now")
    again = journal.step_messages.begin(150)
    assert again is not None
    assert (again.step_message_id, again.attempt) == (message.step_message_id, 2)


def test_a_message_that_failed_is_seen_and_can_be_sent_again(journal: Journal) -> None:
    told(journal, "9.1")
    message = journal.step_messages.begin(102)
    assert message is not None
    journal.step_messages.fail(message.step_message_id, 103, 0x0106, "the RIS says no")
    assert [(view.state, view.count, view.message) for view in journal.step_messages.undone()] == [
        ("failed", 1, "the RIS says no"), ("queued", 1, None),
    ]  # fmt: skip
    assert journal.step_messages.requeue(104) == 1
    assert sent(journal, 104, 3) == [("9.1", "N-CREATE"), ("9.1", "N-SET"), None]
