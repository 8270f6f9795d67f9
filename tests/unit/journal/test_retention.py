"""What may be deleted, and what a deletion leaves."""

from __future__ import annotations

import hashlib
import sqlite3

import pytest

from appliance.domain.states import ProcedureStepState
from appliance.journal.journal import Journal
from appliance.journal.records import Answered, Assessment, ModelVersion
from appliance.journal.retention import Limits
from tests.unit.journal.makers import YES, claim, complete, queue_job, received, register, succeed

ALL = Limits(before=1e9, failed_before=1e9)


def judged(journal: Journal, name: str = "1", *, at: float = 100.0) -> None:
    """A study of one image that was judged, and whose results were delivered."""
    queue_job(journal, name, at=at)
    journal.instances.settle([series_of(journal, f"{name}.2")], at, "association released")
    complete(journal, at + 1)
    while (job := journal.jobs.claim("worker-0", at + 2, 60)) is not None:
        succeed(journal, job, now=at + 3)
    journal.deliveries.delivered(
        [Answered(delivery, at + 4, 0) for delivery in journal.deliveries.claim("pacs", at + 4, 10)]
    )


def series_of(journal: Journal, uid: str) -> int:
    """Its number in the journal."""
    row = journal._database.connection().execute("SELECT series_id FROM series WHERE series_instance_uid = ?", (uid,))
    return int(row.fetchone()[0])


def delete_all(journal: Journal, limits: Limits = ALL, *, now: float = 1e6) -> list[int]:
    """Delete all that may be; return the series."""
    gone = []
    for study_id in journal.retention.studies(limits.before):
        while (deletion := journal.retention.delete_series(study_id, limits, reason="age", now=now)) is not None:
            gone.append(deletion.row_id)
    return gone


def counts(sql: sqlite3.Connection) -> dict[str, int]:
    """Rows of each table that a study has rows in."""
    tables = ("study", "series", "instance", "conflict", "assessment", "job", "stage", "result", "delivery", "event")
    return {table: sql.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def test_nothing_of_a_study_is_left(journal: Journal, sql: sqlite3.Connection) -> None:
    judged(journal)
    journal.instances.add_conflict(1, "other", "conflicts/1.3/other.dcm", "dicom", 101)
    assert all(counts(sql).values())
    assert delete_all(journal) == [1]
    assert not any(counts(sql).values())
    assert all(not rows for states in journal.overview.tally().values() for rows in states.values())
    assert sql.execute("PRAGMA foreign_key_check").fetchall() == []


def test_the_audit_says_what_went_and_identifies_nobody(journal: Journal, sql: sqlite3.Connection) -> None:
    judged(journal)
    delete_all(journal, now=5000)
    [deletion] = journal.retention.newest(10)
    assert (deletion.actor, deletion.reason, deletion.what, deletion.row_id) == ("retention", "age", "series", 1)
    assert (deletion.instances, deletion.results, deletion.bytes, deletion.study_gone) == (1, 4, 1000 + 4 * 2000, True)
    assert (deletion.first_received_at, deletion.last_received_at, deletion.deleted_at) == (100, 100, 5000)
    assert deletion.study == hashlib.sha256(b"1.1").hexdigest()
    [total] = [total for total in journal.retention.totals() if total.reason == "age"]
    assert (total.studies, total.instances, total.bytes) == (1, 1, 9000)


def test_the_audit_cannot_be_changed(journal: Journal, sql: sqlite3.Connection) -> None:
    judged(journal)
    delete_all(journal)
    for statement in ("DELETE FROM deletion", "UPDATE deletion SET bytes = 0"):
        with pytest.raises(sqlite3.IntegrityError, match="on record"):
            sql.execute(statement)


def test_the_files_that_have_to_follow(journal: Journal) -> None:
    judged(journal)
    journal.instances.add_conflict(1, "other", "conflicts/1.3/other.dcm", "dicom", 101)
    delete_all(journal, now=5000)
    waiting = journal.tombstones.waiting()
    assert {stone.path for stone in waiting} == {
        "instances/1.1/1.2", "conflicts/1.3", "results/1", "results/2"
    }  # fmt: skip
    assert {stone.deleted_at for stone in waiting} == {5000}
    for stone in waiting:
        journal.tombstones.done(stone.path)
    assert journal.tombstones.waiting() == []


def test_the_same_image_is_new_afterwards(journal: Journal) -> None:
    judged(journal)
    delete_all(journal)
    assert journal.instances.find("1.3") is None
    again = register(journal, received("1.3", series="1.2", study="1.1", at=9000))
    assert (again.revision, again.reopened) == (1, False)
    with journal.tombstones.names() as names:
        assert names.has("instances/1.1/1.2/1.3.dcm")
        assert not names.has("instances/1.1/1.2/1.4.dcm") and not names.has("instances/7.1/1.2/1.3.dcm")
        assert not names.has("results/1")


def test_oldest_first_and_no_younger_ones(journal: Journal) -> None:
    for name, at in (("1", 300.0), ("2", 100.0), ("3", 200.0)):
        judged(journal, name, at=at)
    limits = Limits(before=250, failed_before=0)
    assert journal.retention.studies(limits.before) == [2, 3]
    assert delete_all(journal, limits) == [2, 3]
    assert journal.retention.oldest_received_at() == 300


def test_a_study_is_as_old_as_its_newest_image(journal: Journal) -> None:
    judged(journal, at=100)
    register(journal, received("1.9", series="1.8", study="1.1", at=400))
    complete(journal, 1000, [])
    assert journal.retention.studies(300) == []
    assert delete_all(journal, Limits(300, 0)) == []
    assert delete_all(journal) == [1, 2]
    assert [deletion.study_gone for deletion in journal.retention.newest(2)] == [True, False]


def test_what_is_being_received_or_judged_is_held(journal: Journal) -> None:
    queue_job(journal, "1")
    assert journal.retention.hold(1, ALL) == "receiving"
    complete(journal, 1000, [YES])
    assert journal.retention.hold(1, ALL) == "job"
    claim(journal)
    assert (journal.retention.hold(1, ALL), delete_all(journal)) == ("job", [])


def test_what_is_being_delivered_is_held(journal: Journal) -> None:
    queue_job(journal, "1")
    complete(journal, 1000, [])
    succeed(journal, claim(journal), kinds=["sr"])
    assert journal.retention.hold(1, ALL) == "delivery"
    [delivery] = journal.deliveries.claim("pacs", 220, 1)
    assert journal.retention.hold(1, ALL) == "delivery"
    journal.deliveries.fail(delivery.delivery_id, 300, None, "refused")
    assert journal.retention.hold(1, Limits(1e9, failed_before=299)) == "failed delivery"
    assert journal.retention.hold(1, Limits(1e9, failed_before=301)) is None
    assert journal.retention.hold(1, Limits(205, failed_before=301)) == "recent result"


def test_what_is_being_forwarded_is_held(journal: Journal, sql: sqlite3.Connection) -> None:
    register(journal, received("1", at=100), forward_to=["pacs"])
    complete(journal, 1000, [])
    assert journal.retention.hold(1, ALL) == "delivery"
    [delivery] = journal.deliveries.claim("pacs", 220, 1)
    journal.deliveries.fail(delivery.delivery_id, 300, None, "refused")
    assert journal.retention.hold(1, Limits(1e9, failed_before=299)) == "failed delivery"
    assert delete_all(journal, Limits(1e9, failed_before=301)) == [1]
    assert not any(counts(sql).values())


def test_a_series_of_which_images_are_still_to_come_is_held(journal: Journal) -> None:
    register(journal, received("1", at=100))
    journal.procedure_steps.create("7.7", b"", 50, send_on=False)
    step = journal.procedure_steps.find("7.7")
    assert step is not None
    journal.procedure_steps.change(
        step, ProcedureStepState.COMPLETED, b"", 200, modification=b"", listed=[("1.2.3", "1"), ("1.2.3", "2")],
        stable_age_s=30, send_on=False,
    )  # fmt: skip
    complete(journal, 5000, [])
    assert journal.retention.hold(1, Limits(1e9, failed_before=199)) == "missing image"
    assert delete_all(journal, Limits(1e9, failed_before=201)) == [1]


def test_what_failed_can_be_requeued_for_a_set_time(journal: Journal) -> None:
    queue_job(journal, "1")
    complete(journal, 1000, [])
    journal.jobs.fail(claim(journal), "worker-0", 210, "crash", "it ended", retry_at=None, max_attempts=1)
    assert journal.retention.hold(1, Limits(1e9, failed_before=209)) == "failed job"
    assert delete_all(journal, Limits(1e9, failed_before=211)) == [1]


def test_what_a_running_comparison_reads_is_held(journal: Journal) -> None:
    journal.activations.activate("brain", ModelVersion("1.0.0", "float32"), 1)
    journal.activations.shadow("brain", ModelVersion("2.0.0", "float32"), 2)
    both = [YES, Assessment("brain", "2.0.0", None, shadow=True)]
    register(journal, received("1.3", series="1.2", study="1.1"), both)
    complete(journal, 1000, [])
    for _ in both:
        job = claim(journal)
        succeed(journal, job, destinations=[])
    assert journal.retention.hold(1, ALL) == "shadow"
    journal.activations.shadow("brain", None, 3)
    assert delete_all(journal) == [1]


def test_files_that_could_not_be_taken(journal: Journal) -> None:
    for at in (100.0, 200.0):
        journal.instances.add_rejection("not-dicom", "no DICOM", f"rejected/{at:.0f}/{at:.0f}.bin", "dropfolder", at)
    deletion = journal.retention.delete_rejection(150, reason="age", now=5000)
    assert deletion is not None and (deletion.what, deletion.row_id, deletion.study) == ("rejected", 1, None)
    assert journal.retention.delete_rejection(150, reason="age", now=5000) is None
    assert [stone.path for stone in journal.tombstones.waiting()] == ["rejected/100"]
    with journal.tombstones.names() as names:
        assert names.has("rejected/200") and not names.has("rejected/100")


def test_how_much_room_was_taken_counts_what_has_gone_again(journal: Journal) -> None:
    judged(journal, "1", at=100)
    judged(journal, "2", at=3800)
    taken = [journal.retention.taken_bytes(since) for since in (0, 3599, 3700, 7200)]
    assert taken == [18000, 18000, 9000, 0], "an image of 1000 bytes and four results of 2000, each in its hour"
    assert delete_all(journal)
    assert journal.retention.taken_bytes(0) == 18000


def test_the_file_shrinks(journal: Journal, sql: sqlite3.Connection) -> None:
    for number in range(80):
        register(journal, received(f"9.{number}", attributes={"StudyDescription": "x" * 9000}, series=f"5.{number}"))
    complete(journal, 1000, [])
    before = journal.retention.pages()[1]
    delete_all(journal)
    unused, pages = journal.retention.pages()
    assert pages >= before and unused > 0.5 * pages
    journal.retention.shrink(10)
    assert journal.retention.pages() == (unused - 10, pages - 10)
    while journal.retention.pages()[0]:
        journal.retention.shrink(100)
    assert journal.retention.pages()[1] < 0.6 * before
    assert sql.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
