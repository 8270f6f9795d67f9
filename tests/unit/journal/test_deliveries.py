"""The outbox."""

from __future__ import annotations

import sqlite3

import pytest

from appliance.errors import IllegalTransition
from appliance.journal.journal import Journal
from appliance.journal.records import Answered, ClaimedDelivery
from tests.unit.journal.makers import claim, queue_job, received, register, succeed


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


class TestImages:
    def test_each_destination_gets_its_own_when_the_image_is_registered(self, journal: Journal) -> None:
        registration = register(journal, received("1.1", at=100), forward_to=("pacs", "share"))
        assert registration.forwarded_to == ("pacs", "share")
        assert journal.deliveries.next_available_at("share") == 100
        [image] = journal.deliveries.claim("pacs", 100, 10)
        assert (image.kind, image.job_id, image.model, image.last_received_at) == ("image", None, None, 100)
        assert (image.sop_instance_uid, image.path, image.bytes) == ("1.1", "instances/1.2/1.2.3/1.1.dcm", 1000)
        journal.deliveries.delivered([Answered(image, 105, 0)])
        assert journal.overview.tally()["delivery"] == {"queued": 1, "sending": 0, "delivered": 1, "failed": 0}

    def test_what_is_not_registered_is_not_forwarded(self, journal: Journal) -> None:
        register(journal, received("1.1"), forward_to=("pacs",))
        with pytest.raises(sqlite3.IntegrityError):
            register(journal, received("1.1"), forward_to=("pacs",))
        assert len(journal.deliveries.claim("pacs", 200, 10)) == 1

    def test_results_come_first(self, journal: Journal) -> None:
        for number in range(4):
            register(journal, received(f"1.{number}", at=100), forward_to=("pacs",))
        queue_job(journal, "9", at=190)
        succeed(journal, claim(journal), kinds=("sr", "seg"))
        assert journal.deliveries.next_available_at("pacs") == 100
        assert kinds(journal.deliveries.claim("pacs", 220, 3)) == ["sr", "seg", "image"]
        assert kinds(journal.deliveries.claim("pacs", 220, 9)) == ["image"] * 3

    def test_it_has_an_image_or_a_result(self, journal: Journal, sql: sqlite3.Connection) -> None:
        register(journal, received("1.1"))
        for columns in ("NULL, NULL", "1, 1"):
            with pytest.raises(sqlite3.IntegrityError):
                sql.execute(
                    "INSERT INTO delivery (result_id, instance_id, destination, available_at, created_at)"
                    f" VALUES ({columns}, 'pacs', 1, 1)"
                )
