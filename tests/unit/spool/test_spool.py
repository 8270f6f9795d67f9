"""The spool: where files lie, that they are durable, and that a full disk is said in time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.errors import SpoolFull
from appliance.spool.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def test_its_folders_are_made(spool: Spool) -> None:
    assert {path.name for path in spool.root.iterdir()} == {
        "incoming",
        "instances",
        "conflicts",
        "rejected",
        "results",
        "trash",
    }
    Spool(spool.root)  # a second role on the same folder


def test_other_bytes_from_arrival_to_their_place(spool: Spool) -> None:
    incoming = spool.incoming.new("dicom")
    incoming.write(b"DICM")
    target = spool.conflict_path("1.2", "abc")
    relative = spool.adopt(incoming.path, target)
    incoming.close()
    assert relative == "conflicts/1.2/abc.dcm"
    assert spool.absolute(relative) == target
    assert target.read_bytes() == b"DICM"
    assert not incoming.path.exists()


def test_other_bytes_of_one_uid_lie_side_by_side(spool: Spool) -> None:
    assert spool.relative(spool.conflict_path("1.2", "abc")) == "conflicts/1.2/abc.dcm"
    assert spool.conflict_path("1.2", "abc") != spool.conflict_path("1.2", "abd")


def test_a_results_folder_is_empty_at_each_attempt(spool: Spool) -> None:
    for attempt in (1, 2, 2):
        folder = spool.results_folder(7, attempt)
        assert list(folder.iterdir()) == []
        (folder / "sr.dcm").touch()
    assert [path.name for path in folder.parent.iterdir()] == ["2"]  # earlier attempts leave nothing behind


def test_a_worker_that_lost_its_job_does_not_remove_the_results_of_who_took_it_over(spool: Spool) -> None:
    promised = spool.results_folder(7, 2) / "sr.dcm"
    promised.touch()
    spool.results_folder(7, 1)  # suspended during attempt 1, it wakes up now
    assert promised.exists()


def test_room_is_what_the_user_may_use(spool: Spool) -> None:
    status = os.statvfs(spool.root)
    assert spool.free_bytes() == pytest.approx(status.f_bavail * status.f_frsize, rel=0.05)


def test_a_full_disk_is_said_with_the_mend(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    mebibyte = 1 << 20
    low = Spool(spool.root, min_free_bytes=100 * mebibyte)
    monkeypatch.setattr(Spool, "free_bytes", lambda _: 100 * mebibyte)
    low.require_room()
    low.require_room(0)
    with pytest.raises(SpoolFull) as caught:
        low.require_room(1)
    assert caught.value.retryable
    assert "found 100 MiB free, expected 100 MiB (storage.min_free_bytes). Free space" in str(caught.value)
    monkeypatch.setattr(Spool, "free_bytes", lambda _: 100 * mebibyte - 1)
    with pytest.raises(SpoolFull):
        low.require_room()


def test_without_a_mark_the_disk_may_fill_up(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spool, "free_bytes", lambda _: 0)
    spool.require_room()
    with pytest.raises(SpoolFull):
        spool.require_room(1)
