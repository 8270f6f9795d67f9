"""The outbox."""

from __future__ import annotations

import sqlite3

import pytest

from appliance.errors import IllegalTransition
from appliance.journal.journal import Journal
from appliance.journal.records import Answered, ClaimedDelivery
from tests.unit.journal.makers import claim, queue_job, succeed


@pytest.fixture
def outbox(journal: Journal) -> Journal:
    """Three results of one job for ``pacs`` and for ``share``, due since 210."""
    queue_job(journal, "1")
    succeed(journal, claim(journal), kinds=("sr", "seg", "sc"), destinations=("pacs", "share"))
    return journal


def kinds(deliveries: list[ClaimedDelivery]) -> list[str]:
    return [delivery.kind for delivery in deliveries]


def test_a_claim_tells_all_that_the_sender_needs(outbox: Journal) -> None:
    first = outbox.deliveries.claim("pacs", 220, 1)[0]
    assert (first.attempt, first.kind, first.sop_instance_uid) == (1, "sr", "9.1.1.0")
    assert (first.path, first.bytes, first.sha256) == ("results/9.1.1.0.dcm", 2000, "sha256 of 9.1.1.0")
    assert (first.created_at, first.job_id, first.model, first.last_received_at) == (210, 1, "brain", 100)


def test_claims_come_in_order_and_stay_within_the_limit(outbox: Journal) -> None:
    assert kinds(outbox.deliveries.claim("pacs", 220, 2)) == ["sr", "seg"]
    assert kinds(outbox.deliveries.claim("pacs", 220, 2)) == ["sc"]
    assert outbox.deliveries.claim("pacs", 220, 2) == []


def test_destinations_do_not_see_each_other(outbox: Journal) -> None:
    outbox.deliveries.claim("pacs", 220, 10)
    assert outbox.deliveries.next_available_at("pacs") is None
    assert outbox.deliveries.next_available_at("share") == 210
    assert len(outbox.deliveries.claim("share", 220, 10)) == 3
    assert outbox.deliveries.claim("elsewhere", 220, 10) == []


def test_what_is_postponed_comes_back_when_it_is_due_and_counts(outbox: Journal) -> None:
    [first] = outbox.deliveries.claim("pacs", 220, 1)
    outbox.deliveries.postpone(first.delivery_id, 300, 0xA700, "out of resources")
    assert kinds(outbox.deliveries.claim("pacs", 299, 10)) == ["seg", "sc"]
    assert outbox.deliveries.next_available_at("pacs") == 300
    [again] = outbox.deliveries.claim("pacs", 300, 10)
    assert (again.delivery_id, again.attempt, again.created_at) == (first.delivery_id, 2, 210)


def test_an_attempt_that_was_never_made_does_not_count(outbox: Journal) -> None:
    [first] = outbox.deliveries.claim("pacs", 220, 1)
    outbox.deliveries.postpone(first.delivery_id, 220, None, "no association", counted=False)
    assert outbox.deliveries.claim("pacs", 220, 1)[0].attempt == 1


def test_delivered_is_the_end(outbox: Journal, sql: sqlite3.Connection) -> None:
    [first] = outbox.deliveries.claim("pacs", 220, 1)
    outbox.deliveries.delivered([Answered(first, 225, 0xB000)])
    row = sql.execute("SELECT * FROM delivery WHERE delivery_id = ?", (first.delivery_id,)).fetchone()
    assert (row["state"], row["finished_at"], row["status"], row["message"]) == ("delivered", 225, 0xB000, None)
    assert outbox.overview.delivered(1) == {("pacs", "sr"): 225}
    with pytest.raises(IllegalTransition):
        outbox.deliveries.postpone(first.delivery_id, 300, None, "x")
    with pytest.raises(IllegalTransition):
        outbox.deliveries.fail(first.delivery_id, 300, None, "x")


def test_failed_stays_visible_with_its_reason_until_it_is_requeued(outbox: Journal) -> None:
    [first] = outbox.deliveries.claim("pacs", 220, 1)
    outbox.deliveries.fail(first.delivery_id, 225, 0xC000, "cannot understand")
    views = {(view.destination, view.state): view for view in outbox.overview.deliveries()}
    assert views["pacs", "failed"].count == 1
    assert views["pacs", "failed"].message == "cannot understand"
    assert outbox.deliveries.requeue(400) == 1
    [again] = [d for d in outbox.deliveries.claim("pacs", 400, 10) if d.delivery_id == first.delivery_id]
    assert (again.attempt, again.created_at) == (1, 400)  # its time to give up begins anew


def test_requeue_of_one_destination_leaves_the_others(outbox: Journal) -> None:
    for name in ("pacs", "share"):
        [first] = outbox.deliveries.claim(name, 220, 1)
        outbox.deliveries.fail(first.delivery_id, 225, None, "x")
    assert outbox.deliveries.requeue(400, "share") == 1
    assert outbox.deliveries.requeue(400, "elsewhere") == 0
    assert outbox.overview.tally()["delivery"]["failed"] == 1


def test_the_next_life_of_the_sender_sends_what_was_in_flight_again(outbox: Journal) -> None:
    outbox.deliveries.claim("pacs", 220, 2)
    outbox.deliveries.claim("share", 220, 2)
    assert outbox.deliveries.recover("pacs") == 2
    assert outbox.overview.tally()["delivery"] == {"queued": 4, "sending": 2, "delivered": 0, "failed": 0}
    assert [delivery.attempt for delivery in outbox.deliveries.claim("pacs", 220, 10)] == [2, 2, 1]


def test_the_newest_message_of_a_destination_is_shown(outbox: Journal) -> None:
    for delivery, message in zip(outbox.deliveries.claim("pacs", 220, 10), ("first", "second", None), strict=True):
        outbox.deliveries.postpone(delivery.delivery_id, 300, None, message)
    [view] = [view for view in outbox.overview.deliveries() if view.destination == "pacs"]
    assert (view.count, view.oldest_created_at) == (3, 210)
    assert view.message == "second"  # "second" is the newest that says anything
