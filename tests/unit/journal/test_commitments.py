"""Storage commitments in the journal: asked for, judged, reported, forgotten."""

from __future__ import annotations

import sqlite3

import pytest

from appliance.domain.commitment import CommitmentReference
from appliance.errors import IllegalTransition
from appliance.journal.journal import Journal
from appliance.journal.retention import Limits
from tests.unit.journal.makers import complete, received, register

CT = "1.2.840.10008.5.1.4.1.1.2"
DAY = 86400.0


def named(*uids: str) -> list[CommitmentReference]:
    return [CommitmentReference(CT, uid) for uid in uids]


def ask(journal: Journal, transaction: str, *uids: str, at: float = 100.0, peer: str = "CT1") -> int | None:
    return journal.commitments.ask(
        transaction, named(*uids), ae_title=peer, address="192.0.2.1", judge_at=at + 10, now=at
    )


def test_until_it_is_reported(journal: Journal) -> None:
    commitments = journal.commitments
    register(journal, received("1.3"))
    number = ask(journal, "9.1", "1.3", "1.4")
    assert number is not None
    [pending] = commitments.pending()
    assert (pending.commitment_id, pending.judge_at, pending.is_here) == (number, 110.0, False)
    register(journal, received("1.4"))
    assert commitments.pending()[0].is_here
    assert [(n.sop_instance_uid, n.bytes) for n in commitments.named(number)] == [("1.3", 1000), ("1.4", 1000)]
    judged = [CommitmentReference(CT, "1.3"), CommitmentReference(CT, "1.4", 0x0110)]
    assert commitments.judged(number, judged, 120.0)
    assert not commitments.judged(number, [], 120.0), "it is judged once"
    assert commitments.begin(119.0) is None
    assert commitments.next_available_at() == 120.0
    report = commitments.begin(120.0)
    assert report is not None
    assert (report.transaction_uid, report.ae_title, report.attempt, list(report.references)) == (
        "9.1",
        "CT1",
        1,
        judged,
    )
    assert commitments.reported(number, 130.0, 0x0000)
    assert not commitments.reported(number, 131.0, 0x0000), "two ways to report, one is counted"
    assert commitments.begin(1e9) is None
    assert journal.overview.tally()["commitment"] == {"pending": 0, "queued": 0, "reported": 1, "failed": 0}


def test_a_transaction_belongs_to_its_peer(journal: Journal) -> None:
    first = ask(journal, "9.1", "1.3")
    assert ask(journal, "9.1", "1.3") == first
    assert ask(journal, "9.1", "1.4") is None
    assert ask(journal, "9.1", "1.4", peer="MR1") not in (None, first)


def test_a_peer_out_of_reach_delays_no_other(journal: Journal) -> None:
    commitments = journal.commitments
    for number, peer in enumerate(("CT1", "CT1", "MR1"), start=1):
        ask(journal, f"9.{number}", "1.3", peer=peer, at=100.0 * number)
        assert commitments.judged(number, named("1.3"), 400.0)
    assert commitments.delay(("CT1", "192.0.2.1"), 500.0, given_up_before=150.0, message="away") == 1
    report = commitments.begin(400.0)
    assert report is not None and report.ae_title == "MR1"
    commitments.fail(report.commitment_id, 401.0, 0x0112, "unknown")
    views = [(view.ae_title, str(view.state), view.count, view.message) for view in commitments.undone()]
    assert views == [
        ("CT1", "failed", 1, "given up; away"),
        ("CT1", "queued", 1, "away"),
        ("MR1", "failed", 1, "unknown"),
    ]
    assert commitments.begin(499.0) is None
    assert commitments.requeue(600.0) == 2
    assert commitments.begin(600.0) is not None, "the one that was never failed"
    assert [pending.judge_at for pending in commitments.pending()] == [600.0, 600.0]


def test_reported_ones_are_forgotten_after_a_month(journal: Journal, sql: sqlite3.Connection) -> None:
    number = ask(journal, "9.1", "1.3")
    assert number is not None
    journal.commitments.judged(number, named("1.3"), 101.0)
    ask(journal, "9.2", "1.3", at=40 * DAY)
    assert sql.execute("SELECT count(*) FROM commitment").fetchone()[0] == 2, "one that is open is kept"
    journal.commitments.reported(number, 102.0, 0)
    ask(journal, "9.3", "1.3", at=40 * DAY)
    assert [row[0] for row in sql.execute("SELECT transaction_uid FROM commitment ORDER BY 1")] == ["9.2", "9.3"]
    assert sql.execute("SELECT count(*) FROM commitment_reference").fetchone()[0] == 2


def test_an_instance_that_an_open_commitment_names_stays(journal: Journal) -> None:
    limits = Limits(before=1e9, failed_before=1e9)
    register(journal, received("1.3", series="1.2", study="1.1"))
    journal.instances.settle([1], 101.0, "association released")
    complete(journal, 102.0, [])
    assert journal.retention.hold(1, limits) is None
    number = ask(journal, "9.1", "1.3")
    assert number is not None
    for _ in range(2):
        assert journal.retention.hold(1, limits) == "commitment"
        journal.commitments.judged(number, named("1.3"), 104.0)
    journal.commitments.reported(number, 105.0, 0)
    assert journal.retention.hold(1, limits) is None


def test_which_series_a_request_names_as_a_whole(journal: Journal) -> None:
    for series, uids in (("1.2", ("1.3", "1.4")), ("2.2", ("2.3", "2.4")), ("3.2", ("3.3",))):
        for uid in uids:
            register(journal, received(uid, series=series))
    number = ask(journal, "9.1", "1.3", "1.4", "2.3", "3.3")
    assert number is not None
    assert journal.commitments.whole_series(number) == [1]


def test_no_other_arrows(journal: Journal) -> None:
    ask(journal, "9.1", "1.3")
    with pytest.raises(IllegalTransition), journal._database.transaction() as connection:
        connection.execute("UPDATE commitment SET state = 'reported'")
