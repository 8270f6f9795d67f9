"""Sending procedure steps on to a RIS: another node of ours, and one that answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.config.settings import Retry, Ris
from appliance.delivery.ris import RisSender
from tests.support.dicom_factory import Subject, ct_series, ct_voxels
from tests.support.ports import free_port
from tests.support.procedure_steps import begun, change, create, ended, modality
from tests.support.reception import Reception
from tests.support.ris import FakeRis
from tests.support.waiting import wait_for

STEP, OTHER = "1.2.840.1.1", "1.2.840.1.2"


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    reception = Reception(tmp_path / "state", send_on=True)
    yield reception
    reception.stop()
    assert not reception.fatal.is_set()


@contextmanager
def sending(reception: Reception, port: int, **retry: float) -> Iterator[None]:
    back_off = Retry(**{"first_s": 0.05, "longest_s": 0.1, **retry})
    sender = RisSender(
        Ris(ae_title="RIS", host="127.0.0.1", port=port, timeout_s=5, retry=back_off),
        ae_title="APPLIANCE",
        journal=reception.journal,
        metrics=reception.metrics,
        run_folder=reception.layout.run,
        on_fatal=reception.fatal.set,
    )
    sender.start()
    yield
    sender.stop()


def exam(reception: Reception, *uids: str) -> None:
    """Steps that begin, all of them, and then end."""
    images = ct_series(ct_voxels(2, 16, 16), subject=Subject(seed="ris"))
    with modality(reception.node.port if reception.node else reception.start_node()) as association:
        for uid in uids:
            assert (
                create(association, uid, begun(PatientName="Schädel^Test", SpecificCharacterSet="ISO_IR 100")).Status
                == 0
            )
        for uid in uids:
            assert change(association, uid, ended(images)).Status == 0


def tally(reception: Reception) -> dict[str, int]:
    return reception.journal.overview.tally()["step_message"]


def test_from_the_modality_to_the_ris(reception: Reception, tmp_path: Path) -> None:
    ris = Reception(tmp_path / "ris")
    port = ris.start_node(ae_title="RIS")
    with sending(reception, port):
        exam(reception, STEP)
        wait_for(lambda: tally(reception)["delivered"] == 2)
    own, other = (r.rows("SELECT sop_instance_uid, state, data_set FROM procedure_step") for r in (reception, ris))
    assert own == other
    assert own[0][1] == "completed"
    ris.stop()


def test_in_order_and_as_it_came(reception: Reception) -> None:
    exam(reception, STEP, OTHER)
    ris = FakeRis()
    with sending(reception, ris.port):
        wait_for(lambda: tally(reception)["delivered"] == 4)
    ris.stop()
    assert ris.messages() == [("N-CREATE", STEP), ("N-CREATE", OTHER), ("N-SET", STEP), ("N-SET", OTHER)]
    first, last = ris.received[0][2], ris.received[2][2]
    assert str(first.PatientName) == "Schädel^Test"
    assert (last.PerformedProcedureStepStatus, len(last.PerformedSeriesSequence[0].ReferencedImageSequence)) == (
        "COMPLETED",
        2,
    )


# The library leaves the socket of a refused connection to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ris_that_is_down_for_a_while(reception: Reception) -> None:
    exam(reception, STEP)
    port = free_port()
    with sending(reception, port):
        wait_for(lambda: [view.message for view in reception.journal.step_messages.undone()] != [None])
        [view] = reception.journal.step_messages.undone()
        assert (view.state, view.count) == ("queued", 2)
        assert "no association with RIS at 127.0.0.1" in str(view.message)
        ris = FakeRis(port=port)
        wait_for(lambda: tally(reception)["delivered"] == 2)
    ris.stop()
    assert ris.messages() == [("N-CREATE", STEP), ("N-SET", STEP)]


def test_an_answer_that_is_lost(reception: Reception) -> None:
    """The RIS has it: it says so when it is asked again, by 0x0111, and by A710 for what ended the step."""
    exam(reception, STEP)
    ris = FakeRis([FakeRis.ABORT, 0x0111, FakeRis.ABORT, 0x0110], error_id=0xA710)
    with sending(reception, ris.port):
        wait_for(lambda: tally(reception)["delivered"] == 2)
    ris.stop()
    assert ris.messages() == [("N-CREATE", STEP)] * 2 + [("N-SET", STEP)] * 2


def test_a_ris_in_trouble_is_asked_again_and_others_steps_do_not_wait(reception: Reception) -> None:
    exam(reception, STEP, OTHER)
    ris = FakeRis([0x0110, 0x0000, 0x0000, 0x0213])
    with sending(reception, ris.port, first_s=1, longest_s=1):
        wait_for(lambda: tally(reception)["delivered"] == 4)
    ris.stop()
    assert ris.messages()[:3] == [("N-CREATE", STEP), ("N-CREATE", OTHER), ("N-SET", OTHER)]
    assert [message for message in ris.messages() if message[1] == STEP][-1] == ("N-SET", STEP)


def test_what_the_ris_does_not_want_is_seen_and_can_be_sent_again(reception: Reception) -> None:
    exam(reception, STEP)
    ris = FakeRis([0x0106, 0x0112])
    with sending(reception, ris.port):
        wait_for(lambda: tally(reception)["failed"] == 2)
        [view] = reception.journal.step_messages.undone()
        assert str(view.message).startswith("the RIS answered an N-CREATE with 0x0106 (invalid attribute value)")
        assert reception.journal.step_messages.requeue(0.0) == 2
        wait_for(lambda: tally(reception)["delivered"] == 2)
    ris.stop()
    assert ris.messages() == [("N-CREATE", STEP), ("N-SET", STEP)] * 2


def test_in_the_end_it_is_given_up(reception: Reception) -> None:
    exam(reception, STEP)
    ris = FakeRis([0x0213] * 1000)
    with sending(reception, ris.port, give_up_after_s=0.2):
        wait_for(lambda: tally(reception)["failed"] == 2)
    ris.stop()


def test_a_stop_in_the_middle_loses_nothing(reception: Reception) -> None:
    exam(reception, *(f"1.2.840.2.{number}" for number in range(10)))
    ris = FakeRis()
    for count in (3, 9):
        with sending(reception, ris.port):
            wait_for(lambda: len(ris.received) >= count)  # noqa: B023 - used at once
    with sending(reception, ris.port):
        wait_for(lambda: tally(reception)["delivered"] == 20)
    ris.stop()
    assert threading.active_count() < 20
    done = list(dict.fromkeys(ris.messages()))  # what was under way at a stop comes twice
    assert [m for m in done if m[0] == "N-CREATE"] + [m for m in done if m[0] == "N-SET"] == done
