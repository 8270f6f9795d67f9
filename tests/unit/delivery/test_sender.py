"""The sender with a destination that does as it is told."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from appliance.delivery import sender as sender_module
from appliance.delivery.base import Destination
from appliance.delivery.outgoing import Outgoing
from appliance.errors import DeliveryRefused, DeliveryRetry, DestinationUnreachable
from tests.support.outbox import MODEL, Outbox, pacs
from tests.support.waiting import wait_for

SETTINGS = pacs(104)


class Obedient(Destination):
    """Takes what ``answer`` does not raise for."""

    def __init__(self) -> None:
        self.answer: Callable[[Outgoing], int | None] = lambda outgoing: None
        self.tried: list[str] = []
        self.announced: list[int] = []
        self.closed = threading.Event()
        self.was_cut = threading.Event()

    def announce(self, objects: Sequence[Outgoing]) -> None:
        self.announced.append(len(objects))

    def _send(self, outgoing: Outgoing) -> int | None:
        self.tried.append(outgoing.sop_instance_uid)
        for _ in outgoing.read():
            pass
        return self.answer(outgoing)

    def close(self) -> None:
        self.closed.set()

    def cut(self) -> None:
        self.was_cut.set()


@pytest.fixture
def destination(monkeypatch: pytest.MonkeyPatch) -> Obedient:
    obedient = Obedient()
    monkeypatch.setattr(sender_module, "make_destination", lambda settings, ae_title: obedient)
    return obedient


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(tmp_path)
    yield outbox
    outbox.close()


def test_in_the_order_in_which_they_were_made(outbox: Outbox, destination: Obedient) -> None:
    uids = [uid for seed in range(4) for uid in outbox.put(str(seed), [SETTINGS])]
    outbox.sender(SETTINGS)
    wait_for(outbox.are_delivered, what="the delivery")
    assert destination.tried == uids
    assert destination.announced == [12], "all at once, so that one association can serve them"


def test_images_are_claimed_together_however_they_trickle_in(
    outbox: Outbox, destination: Obedient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "_GATHER_S", 0.5)
    uids = [outbox.put_image("0", [SETTINGS])]
    outbox.sender(SETTINGS)
    wait_for(outbox.are_delivered, what="the first one")
    uids += [outbox.put_image(str(seed), [SETTINGS]) for seed in range(1, 20)]
    wait_for(lambda: len(destination.tried) == 20, what="the others")
    assert destination.tried == uids
    assert len(destination.announced) <= 6


def test_a_result_does_not_wait_for_images_that_may_come(
    outbox: Outbox, destination: Obedient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "_GATHER_S", 30.0)
    outbox.put_image("image", [SETTINGS])
    outbox.sender(SETTINGS)
    wait_for(outbox.are_delivered, what="the image")
    outbox.put("1", [SETTINGS])
    wait_for(outbox.are_delivered, what="the results")


def test_metrics(outbox: Outbox, destination: Obedient) -> None:
    outbox.put("1", [SETTINGS])
    outbox.sender(SETTINGS)
    wait_for(lambda: outbox.count("delivered") == 3, what="the delivery")
    for kind in ("sr", "sc", "seg"):
        assert outbox.metrics.deliver_seconds.labels("pacs", kind)._sum.get() > 0
        assert outbox.metrics.total_seconds.labels(MODEL, "pacs", kind)._sum.get() > 0


def test_a_lost_hint_costs_a_second_at_most(
    outbox: Outbox, destination: Obedient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.outbox.send_hint", lambda folder, prefix: None)
    outbox.sender(SETTINGS)
    outbox.put("1", [SETTINGS])
    wait_for(outbox.are_delivered, 5, what="the delivery")


def test_out_of_reach_one_probe_at_a_time(outbox: Outbox, destination: Obedient) -> None:
    def unreachable(outgoing: Outgoing) -> int | None:
        raise DestinationUnreachable("nobody is there")

    destination.answer = unreachable
    outbox.put("1", [SETTINGS])
    outbox.sender(SETTINGS)
    wait_for(lambda: len(destination.tried) >= 4, what="probes")
    assert len(set(destination.tried)) == 1
    assert destination.announced[:3] == [3, 1, 1]


def test_an_object_that_fails_on_its_own_account_lets_the_others_pass(outbox: Outbox, destination: Obedient) -> None:
    def picky(outgoing: Outgoing) -> int | None:
        if outgoing.sop_instance_uid == uids[0] and len(destination.tried) < 6:
            raise DeliveryRetry("not now", status=0xA700)
        return 0x0000

    destination.answer = picky
    uids = outbox.put("1", [SETTINGS])
    outbox.sender(SETTINGS)
    wait_for(lambda: outbox.states()[1:] == ["delivered", "delivered"], what="the others")


def test_a_clock_that_was_set_back_holds_nothing_up(outbox: Outbox, destination: Obedient) -> None:
    uids = outbox.put("1", [SETTINGS], created_at=time.time() + 365 * 86400)
    uids += outbox.put("2", [SETTINGS])
    outbox.sender(SETTINGS)
    wait_for(outbox.are_delivered, what="the delivery")
    assert destination.tried == uids[3:] + uids[:3]
    assert all(row["created_at"] <= time.time() for row in outbox.rows())


def test_a_refused_object_fails_at_once_with_its_status(outbox: Outbox, destination: Obedient) -> None:
    def refuse(outgoing: Outgoing) -> int | None:
        if outgoing.kind == "sc":
            raise DeliveryRefused("never", status=0xA900, mend="Ask")
        return 0x0000

    destination.answer = refuse
    outbox.put("1", [SETTINGS])
    outbox.sender(SETTINGS)
    wait_for(lambda: outbox.states() == ["delivered", "failed", "delivered"], what="the others")
    row = outbox.rows()[1]
    assert (row["status"], row["message"], row["attempts"]) == (0xA900, "never. Ask", 1)


def test_a_damaged_file_fails_and_the_others_go_on(outbox: Outbox, destination: Obedient) -> None:
    outbox.put("1", [SETTINGS])
    paths = [outbox.spool.absolute(row["path"]) for row in outbox.rows()]
    paths[0].unlink()
    paths[1].write_bytes(b"something else")
    outbox.sender(SETTINGS)
    wait_for(lambda: outbox.states() == ["failed", "failed", "delivered"], what="the others")
    assert "gone from the spool" in outbox.rows()[0]["message"]
    assert "changed after it was committed" in outbox.rows()[1]["message"]


def test_what_an_earlier_life_left_is_sent_again(outbox: Outbox, destination: Obedient) -> None:
    uids = outbox.put("1", [SETTINGS])
    outbox.journal.deliveries.claim("pacs", outbox.rows()[0]["created_at"], 2)
    assert outbox.states() == ["sending", "sending", "queued"]
    outbox.sender(SETTINGS)
    wait_for(outbox.are_delivered, what="the delivery")
    assert destination.tried == uids


def test_the_rest_of_a_batch_is_returned_at_a_stop(outbox: Outbox, destination: Obedient) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(outgoing: Outgoing) -> int | None:
        entered.set()
        leave.wait(10)
        return 0x0000

    destination.answer = slow
    outbox.put("1", [SETTINGS])
    sender = outbox.sender(SETTINGS)
    assert entered.wait(10)
    threading.Timer(0.2, leave.set).start()
    sender.stop()
    assert outbox.states() == ["delivered", "queued", "queued"]
    assert [row["attempts"] for row in outbox.rows()] == [1, 0, 0]
    assert destination.closed.is_set()
    assert not destination.was_cut.is_set()


def test_a_journal_in_trouble_ends_the_role(
    outbox: Outbox, destination: Obedient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(destination: str) -> float | None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(outbox.journal.deliveries, "next_available_at", fail)
    outbox.sender(SETTINGS)
    wait_for(outbox.failed.is_set, what="the report")
    assert destination.closed.wait(5)
    outbox.failed.clear()


def test_never_started_is_stopped_without_an_error(outbox: Outbox, destination: Obedient) -> None:
    sender_module.Sender(
        SETTINGS,
        ae_title="APPLIANCE",
        journal=outbox.journal,
        spool=outbox.spool,
        recorder=outbox.recorder,
        metrics=outbox.metrics,
        run_dir=outbox.run_dir,
        on_fatal=outbox.failed.set,
    ).stop()
