"""The recorder, on a real journal."""

from __future__ import annotations

import errno
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from appliance.delivery import recorder as recorder_module
from appliance.delivery.recorder import Recorder
from appliance.journal.records import Answered, ClaimedDelivery
from tests.support.outbox import Outbox, pacs
from tests.support.waiting import wait_for

SETTINGS = pacs(104)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(tmp_path)
    yield outbox
    outbox.close()


def claimed(outbox: Outbox, count: int) -> list[ClaimedDelivery]:
    """Deliveries that are being sent."""
    for seed in range(count):
        outbox.put(str(seed), [SETTINGS], kinds=["sr"])
    return outbox.journal.deliveries.claim("pacs", time.time(), count)


def test_what_is_answered_during_a_commit_shares_the_next_and_has_an_end(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_BACKLOG", 8)
    deliveries = claimed(outbox, 20)
    commits: list[int] = []
    real = outbox.journal.deliveries.delivered

    def counted(answered: Sequence[Answered]) -> None:
        commits.append(len(answered))
        real(answered)

    monkeypatch.setattr(outbox.journal.deliveries, "delivered", counted)
    recorded: list[int] = []

    def answer() -> None:
        for delivery in deliveries:
            outbox.recorder.record(Answered(delivery, time.time(), 0))
            recorded.append(delivery.delivery_id)

    with sqlite3.connect(outbox.root / "journal" / "journal.sqlite") as busy:
        busy.execute("BEGIN IMMEDIATE")
        sender = threading.Thread(target=answer)
        sender.start()
        wait_for(lambda: commits and len(recorded) == commits[0] + 8, what="the backlog to be full")
        assert set(outbox.states()) == {"sending"}
    busy.close()
    sender.join(10)
    wait_for(outbox.are_delivered, what="the commits")

    assert sum(commits) == 20
    assert len(commits) <= 5
    assert outbox.count("delivered") == 20


def test_what_is_left_is_recorded_at_a_stop(outbox: Outbox) -> None:
    for delivery in claimed(outbox, 5):
        outbox.recorder.record(Answered(delivery, time.time(), 0))
    outbox.recorder.stop()
    assert outbox.are_delivered()


def test_the_disk_follows_although_nothing_more_is_answered(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = threading.Event()
    (delivery,) = claimed(outbox, 1)
    monkeypatch.setattr(outbox.journal, "flush", flushed.set)
    outbox.recorder.record(Answered(delivery, time.time(), 0))
    assert flushed.wait(5)


def test_a_journal_in_trouble_ends_the_role_and_lets_nothing_more_out(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(answered: Sequence[Answered]) -> None:
        raise OSError(errno.EIO, "Input/output error")

    deliveries = claimed(outbox, 2)
    monkeypatch.setattr(outbox.journal.deliveries, "delivered", fail)
    ended = threading.Event()
    recorder = Recorder(outbox.journal, outbox.metrics, on_fatal=ended.set)
    recorder.start()
    recorder.record(Answered(deliveries[0], time.time(), 0))
    assert ended.wait(5)
    with pytest.raises(RuntimeError, match="has ended"):
        recorder.record(Answered(deliveries[1], time.time(), 0))
