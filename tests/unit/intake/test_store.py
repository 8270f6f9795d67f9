"""The store: what is promised is on disk and in the journal; the rest is refused, counted and left to the caller."""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.states import Scope
from appliance.errors import RejectedInput, SpoolFull
from appliance.intake import store as store_module
from appliance.intake.part10 import ScannedInstance, scan_file
from appliance.intake.store import Acceptance, Claim, Outcome
from appliance.journal.hints import HintSocket
from tests.support.received_files import CT, IMPLICIT, INSTANCE, MR, SERIES, STUDY, data_set, part10
from tests.support.reception import Reception, model


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    reception = Reception(
        tmp_path,
        models=[
            model("one-image", scope=Scope.INSTANCE),
            model("other-modality", scope=Scope.INSTANCE, modality="MR", sop_class=MR),
            model("no-weights", scope=Scope.INSTANCE),
            model("a-series"),
        ],
        unusable={"no-weights/1.0.0": "its weights are not here: appliance models fetch no-weights"},
    )
    yield reception
    reception.stop()


def accept(reception: Reception, content: bytes, **options: Any) -> Acceptance:
    incoming = reception.file(content)
    try:
        return reception.store.accept(incoming, received_at=1000.0, **options)
    finally:
        incoming.close()


def test_stored(reception: Reception) -> None:
    content = data_set()
    found = accept(reception, part10(content))
    assert (found.outcome, found.images, found.series_instance_uid) == (Outcome.STORED, 1, SERIES)
    path = reception.spool.instance_path(STUDY, SERIES, INSTANCE)
    assert path.read_bytes() == part10(content)
    assert reception.incoming() == []
    [row] = reception.rows("SELECT path, bytes, sha256, source, received_at, series_id FROM instance")
    assert row == (
        f"instances/{STUDY}/{SERIES}/{INSTANCE}.dcm",
        len(part10(content)),
        hashlib.sha256(content).hexdigest(),
        "dicom",
        1000.0,
        found.series_id,
    )
    assert reception.count("stored") == 1


def test_each_one_image_model_says_yes_or_no_with_its_reason(reception: Reception) -> None:
    ear = HintSocket(reception.layout.run, "worker-0")
    accept(reception, part10(data_set()))
    assert dict(reception.rows("SELECT model, refusal FROM assessment")) == {
        "one-image": None,
        "other-modality": "Modality is CT, wants MR",
        "no-weights": "its weights are not here: appliance models fetch no-weights",
    }
    assert reception.rows("SELECT model FROM job") == [("one-image",)]
    assert ear.wait(0.0)
    ear.close()


def test_duplicate_is_taken_once(reception: Reception) -> None:
    accept(reception, part10(data_set()))
    # The same data set with other file meta information is the same instance.
    again = accept(reception, part10(data_set(), instance="1.2.3"))
    assert (again.outcome, again.series_id) == (Outcome.DUPLICATE, None)
    assert reception.rows("SELECT count(*) FROM instance") == [(1,)]
    assert reception.incoming() == []


def test_other_content_under_a_known_uid_is_kept_apart(reception: Reception, caplog: pytest.LogCaptureFixture) -> None:
    accept(reception, part10(data_set()))
    other = part10(data_set(pixels=bytes(30) + b"xy"))
    for _ in range(2):
        assert accept(reception, other).outcome == Outcome.CONFLICT
    assert reception.spool.instance_path(STUDY, SERIES, INSTANCE).read_bytes() == part10(data_set())
    [(path,)] = reception.rows("SELECT path FROM conflict")
    assert reception.spool.absolute(path).read_bytes() == other
    assert reception.count("conflict") == 2
    assert "both are kept" in caplog.text
    assert INSTANCE not in caplog.text
    assert reception.incoming() == []


def test_bare_data_set_gets_its_head(reception: Reception) -> None:
    content = data_set(syntax=IMPLICIT)
    accept(reception, content)
    path = reception.spool.instance_path(STUDY, SERIES, INSTANCE)
    found = scan_file(path, max_bytes=1 << 20)
    assert found.has_head and found.transfer_syntax_uid == IMPLICIT
    assert path.read_bytes()[found.data_set_offset :] == content
    [(size, sha256)] = reception.rows("SELECT bytes, sha256 FROM instance")
    assert (size, sha256) == (path.stat().st_size, hashlib.sha256(content).hexdigest())
    assert reception.incoming() == []


@pytest.mark.parametrize("claim", [Claim(MR, INSTANCE), Claim(CT, "1.2.9")])
def test_mismatch(reception: Reception, claim: Claim) -> None:
    incoming = reception.file(part10(data_set()))
    with pytest.raises(RejectedInput) as caught:
        reception.store.accept(incoming, received_at=1000.0, claim=claim)
    assert caught.value.reason == "mismatch"
    assert reception.count("mismatch") == 1
    assert reception.rows("SELECT * FROM instance") == []
    assert reception.incoming() == [incoming.path], "a refused file is the caller's"
    incoming.close()
    assert reception.incoming() == []


def test_below_the_mark(tmp_path: Path) -> None:
    reception = Reception(tmp_path, min_free_bytes=1 << 60)
    with pytest.raises(SpoolFull):
        accept(reception, part10(data_set()))
    assert reception.rows("SELECT * FROM instance") == []
    reception.stop()


def test_no_promise_when_the_disk_fails(reception: Reception, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    incoming = reception.file(part10(data_set()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output"):
            reception.store.accept(incoming, received_at=1000.0)
    incoming.close()
    assert reception.rows("SELECT * FROM instance") == []
    assert not reception.spool.instance_path(STUDY, SERIES, INSTANCE).exists()
    assert reception.incoming() == reception.promised() == []
    assert accept(reception, part10(data_set())).outcome == Outcome.STORED


def test_no_promise_when_the_journal_fails(reception: Reception) -> None:
    """The file was on the disk already: it must not come back at the next start, as its sender was refused."""
    connection = reception.journal.instances._database.connection()
    connection.execute("ALTER TABLE study RENAME TO somewhere_else")
    with pytest.raises(sqlite3.OperationalError):
        accept(reception, part10(data_set()))
    connection.execute("ALTER TABLE somewhere_else RENAME TO study")
    assert reception.incoming() == reception.promised() == []
    assert not reception.spool.instance_path(STUDY, SERIES, INSTANCE).exists()
    assert accept(reception, part10(data_set())).outcome == Outcome.STORED


def test_an_orphan_of_a_crash_is_replaced_by_the_resend(reception: Reception) -> None:
    path = reception.spool.instance_path(STUDY, SERIES, INSTANCE)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"renamed into place, then the power went")
    assert accept(reception, part10(data_set())).outcome == Outcome.STORED
    assert path.read_bytes() == part10(data_set())


def test_the_same_uid_from_many_senders_at_once(reception: Reception) -> None:
    outcomes: list[Outcome] = []

    def send(pixels: bytes) -> None:
        outcomes.append(accept(reception, part10(data_set(pixels=pixels))).outcome)

    threads = [threading.Thread(target=send, args=(bytes([number % 2]) * 32,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(Outcome.STORED) == 1
    assert outcomes.count(Outcome.DUPLICATE) == 3
    assert outcomes.count(Outcome.CONFLICT) == 4
    assert reception.rows("SELECT (SELECT count(*) FROM instance), (SELECT count(*) FROM conflict)") == [(1, 1)]


def lose_the_journal(reception: Reception) -> None:
    """What a power failure may do to commits that are not on the disk yet."""
    connection = reception.journal.instances._database.connection()
    connection.execute("PRAGMA foreign_keys = OFF")
    for table in ("job", "assessment", "instance", "series", "study"):
        connection.execute(f"DELETE FROM {table}")
    connection.execute("PRAGMA foreign_keys = ON")


def test_the_first_name_stays_until_the_journal_is_on_the_disk(reception: Reception) -> None:
    accept(reception, part10(data_set()))
    (first,) = reception.promised()
    assert first.samefile(reception.spool.instance_path(STUDY, SERIES, INSTANCE))
    reception.store.confirm()
    assert reception.promised() == []
    assert reception.spool.instance_path(STUDY, SERIES, INSTANCE).exists()


def test_what_a_power_failure_takes_from_the_journal_is_put_back(reception: Reception) -> None:
    """With its jobs, its source and its time; once, however often the role starts."""
    content = [data_set(instance=f"{INSTANCE}.{number}") for number in range(3)]
    for one in content:
        accept(reception, part10(one))
    wanted = "SELECT sop_instance_uid, path, bytes, sha256, source, received_at FROM instance ORDER BY sop_instance_uid"
    before, jobs = reception.rows(wanted), reception.rows("SELECT count(*) FROM job")
    lose_the_journal(reception)
    kept = reception.promised()
    assert reception.store.recover() == 3
    assert reception.rows(wanted) == before
    assert reception.rows("SELECT count(*) FROM job") == jobs
    assert len(kept) == 3 and reception.promised() == []
    assert reception.store.recover() == 0


def test_what_the_journal_kept_is_not_registered_twice(reception: Reception) -> None:
    accept(reception, part10(data_set()))
    assert reception.store.recover() == 0
    assert reception.promised() == []
    assert len(reception.rows("SELECT * FROM instance")) == 1


def test_a_name_that_a_power_failure_took_is_given_again(reception: Reception) -> None:
    accept(reception, part10(data_set()))
    lose_the_journal(reception)
    path = reception.spool.instance_path(STUDY, SERIES, INSTANCE)
    path.unlink()
    assert reception.store.recover() == 1
    assert path.read_bytes() == part10(data_set())


def test_a_name_is_given_again_where_the_journal_kept_the_instance(reception: Reception) -> None:
    accept(reception, part10(data_set()))
    path = reception.spool.instance_path(STUDY, SERIES, INSTANCE)
    path.unlink()
    assert reception.store.recover() == 0
    assert path.read_bytes() == part10(data_set())
    assert reception.promised() == []


def test_what_was_whole_but_not_flushed_is_flushed(reception: Reception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between the two: once the journal has it, it is a duplicate to whoever sends it again."""
    file = reception.file(part10(data_set()))
    os.fchmod(file.descriptor, 0o400)
    inode, flushed, fsync = os.fstat(file.descriptor).st_ino, [], os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        if reception.rows("SELECT count(*) FROM instance") == [(0,)]:
            flushed.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", watched)
    assert reception.store.recover() == 1
    assert inode in flushed, "before it is registered"
    file.close()


def test_other_bytes_of_a_known_uid_do_not_take_its_place(reception: Reception) -> None:
    """A crash between the promise and its keeping apart: their sender got no answer."""
    accept(reception, part10(data_set()))
    reception.store.confirm()
    other = reception.file(part10(data_set(pixels=bytes(30) + b"xy")))
    other.promise(999.0)
    other.close()
    assert reception.store.recover() == 0
    assert reception.spool.instance_path(STUDY, SERIES, INSTANCE).read_bytes() == part10(data_set())
    assert reception.promised() == []


def test_an_arrival_that_was_cut_short_was_never_answered(reception: Reception) -> None:
    """It is marked as whole and does not have all of its bytes: it goes, and hinders nothing."""
    accept(reception, part10(data_set()))
    lose_the_journal(reception)
    cut = reception.file(part10(data_set(instance=f"{INSTANCE}.9"))[:-20])
    cut.promise(999.0)
    cut.close()
    foreign = reception.spool.incoming.folder / "somebody's file"
    foreign.touch(0o400)
    assert reception.store.recover() == 1
    assert reception.promised() == [foreign]


def test_an_arrival_that_cannot_be_read_stays_and_hinders_nothing(
    reception: Reception, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(reception, part10(data_set()))
    lose_the_journal(reception)
    unreadable = reception.file(part10(data_set(instance=f"{INSTANCE}.9")))
    unreadable.promise(999.0)
    unreadable.close()
    scan = store_module.scan_file

    def failing(path: Path, *, max_bytes: int) -> ScannedInstance:
        if path == unreadable.path:
            raise OSError(errno.EIO, "Input/output error")
        return scan(path, max_bytes=max_bytes)

    monkeypatch.setattr(store_module, "scan_file", failing)
    assert reception.store.recover() == 1
    assert reception.promised() == [unreadable.path]
