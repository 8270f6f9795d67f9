"""The drop folder, with files as people and programs leave them there."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from watchdog.observers.api import BaseObserver

from appliance.intake.dropfolder import DropFolder
from appliance.intake.quiet_files import QuietFiles, View
from appliance.spool import spool as spool_module
from tests.support.dicom_factory import ct_series, ct_voxels, enhanced_mr, mr_voxels, write_datasets
from tests.support.received_files import (
    BIG_ENDIAN,
    COMPREHENSIVE_SR,
    DEFLATED,
    IMPLICIT,
    data_set,
    deflate,
    element,
    part10,
)
from tests.support.reception import Reception, model
from tests.support.waiting import wait_for

QUIET_S = 0.2


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    reception = Reception(tmp_path / "state", models=[model()])
    reception.assembler.start()
    yield reception
    reception.stop()
    assert not reception.fatal.is_set()
    assert reception.incoming() == []


def stored(reception: Reception) -> int:
    return reception.count("stored", "dropfolder")


def completed(reception: Reception) -> list[tuple[Any, ...]]:
    return reception.rows("SELECT sign, image_count FROM series WHERE state = 'complete' ORDER BY series_id")


def rejections(reception: Reception) -> list[tuple[Any, ...]]:
    return reception.rows("SELECT reason, path FROM rejection ORDER BY rejection_id")


def empty(folder: Path) -> Callable[[], bool]:
    return lambda: list(folder.iterdir()) == []


def numbered(number: int) -> bytes:
    return part10(data_set(instance=f"1.2.3.{number}"))


def drop(folder: Path, name: str, content: bytes) -> Path:
    """Put a file there in one step, as a rename does."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    temporary.write_bytes(content)
    temporary.rename(target)
    return target


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


# -- What is taken


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("image.dcm", part10(data_set())),
        ("IM000001", part10(data_set())),
        ("no ending, ümlaut", part10(data_set(syntax=BIG_ENDIAN), BIG_ENDIAN)),
        ("deflated.dcm", part10(deflate(data_set()), DEFLATED)),
        ("bare", data_set(syntax=IMPLICIT)),
        ("report.dcm", part10(data_set(sop_class=COMPREHENSIVE_SR, modality="SR", pixels=None))),
        ("no-pixels.dcm", part10(data_set(pixels=None))),
    ],
)
def test_files(reception: Reception, name: str, content: bytes) -> None:
    folder = reception.start_dropfolder()
    drop(folder, name, content)
    wait_for(empty(folder))
    assert stored(reception) == 1
    assert reception.rows("SELECT source FROM instance") == [("dropfolder",)]


def test_name_that_is_not_utf8(reception: Reception) -> None:
    folder = reception.start_dropfolder()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.txt")).write_bytes(b"neither is its content")
    wait_for(lambda: rejections(reception))
    wait_for(empty(folder))


def test_what_was_there_at_start(reception: Reception) -> None:
    for number in range(3):
        drop(reception.layout.dropfolder, f"sub/{number}", numbered(number))
    folder = reception.start_dropfolder()
    wait_for(empty(folder))
    assert stored(reception) == 3


def test_sub_folders(reception: Reception) -> None:
    folder = reception.start_dropfolder()
    write_datasets(ct_series(ct_voxels(6, 16, 16)), folder / "study" / "series" / "images")
    wait_for(lambda: completed(reception) == [("folder complete", 6)])
    assert reception.rows("SELECT model FROM job") == [("ct-model",)]
    wait_for(empty(folder), what="the removal of what is left of the sub-folder")


def test_a_single_image_in_a_sub_folder_is_no_sign(reception: Reception) -> None:
    folder = reception.start_dropfolder()
    drop(folder, "sub/1", numbered(1))
    wait_for(empty(folder))
    assert reception.rows("SELECT sign, state FROM series") == [("stable age", "receiving")]


def test_a_multi_frame_image_in_a_sub_folder_is_a_series(reception: Reception) -> None:
    folder = reception.start_dropfolder()
    write_datasets([enhanced_mr(mr_voxels(5, 16, 16))], folder / "sub")
    wait_for(lambda: completed(reception) == [("folder complete", 5)])


def test_copied_slowly(reception: Reception) -> None:
    folder = reception.start_dropfolder()
    content = part10(data_set(pixels=bytes(4000)))
    sub = folder / "sub"
    sub.mkdir()
    with (sub / "slow").open("wb", buffering=0) as stream:
        for at in range(0, len(content), 800):
            stream.write(content[at : at + 800])
            time.sleep(QUIET_S / 2)  # the writer's pace, not a wait for us
            assert stored(reception) == 0 and rejections(reception) == []
    wait_for(empty(folder))
    assert stored(reception) == 1 and rejections(reception) == []


def test_a_sub_folder_is_not_complete_while_something_is_being_copied(reception: Reception) -> None:
    folder = reception.start_dropfolder()
    for number in range(3):
        drop(folder, f"sub/{number}", numbered(number))
    unfinished = folder / "sub" / "3.part"
    unfinished.write_bytes(numbered(3)[:100])
    wait_for(lambda: stored(reception) == 3)
    assert [path.name for path in (folder / "sub").iterdir()] == ["3.part"]
    assert completed(reception) == []
    unfinished.write_bytes(numbered(3))
    unfinished.rename(folder / "sub" / "3")
    wait_for(lambda: completed(reception) == [("folder complete", 4)])


def test_a_huge_tree_does_not_take_the_processor(reception: Reception, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def look(files: QuietFiles, now: float) -> View:
        looks.append(now)
        began = time.thread_time()
        while time.thread_time() - began < 0.02:
            pass
        return View()

    monkeypatch.setattr(QuietFiles, "look", look)
    reception.start_dropfolder(poll_s=0.001)
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 1.0)
    assert 1 < len(looks) < 14, "a fifth of the time at most"


def test_without_notifications(reception: Reception, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(self: BaseObserver, *_: object, **__: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(BaseObserver, "schedule", silent)
    folder = reception.start_dropfolder()
    drop(folder, "1", numbered(1))
    wait_for(empty(folder))
    assert stored(reception) == 1


def test_notifications_save_the_wait_for_the_next_poll(reception: Reception) -> None:
    folder = reception.start_dropfolder(poll_s=30.0)
    drop(folder, "1", numbered(1))
    wait_for(empty(folder), timeout_s=5)


@pytest.mark.peer
@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync(reception: Reception, tmp_path: Path) -> None:
    folder = reception.start_dropfolder()
    write_datasets(ct_series(ct_voxels(10, 64, 64)), tmp_path / "source")
    subprocess.run(["rsync", "-a", f"{tmp_path}/source", str(folder)], check=True)
    wait_for(lambda: completed(reception) == [("folder complete", 10)])


# -- What is not


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"a letter, not an image", "not-dicom"),
        (part10(data_set())[:-7], "truncated"),
        (part10(data_set(extra=[(0x00091010, element(0x00091010, "UN", b"", length=2**31 - 1))])), "truncated"),
        (part10(data_set(instance="../../../../etc/passwd")), "bad-uid"),
        (part10(data_set(study="")), "missing-uid"),
        (part10(data_set(), "1.2.840.10008.1.2.4.100"), "unsupported-transfer-syntax"),
        (b"PK\x03\x04" + bytes(400), "damaged-archive"),
        (zipped({}), "empty-archive"),
    ],
)
def test_rejected_files_are_kept_with_the_reason(
    reception: Reception, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    folder = reception.start_dropfolder()
    drop(folder, "MUELLER_HANS/scan of Mueller", content)
    wait_for(empty(folder))
    [(found, path)] = rejections(reception)
    assert found == reason
    kept = reception.spool.absolute(path)
    assert kept.read_bytes() == content
    note = json.loads(kept.with_suffix(".json").read_text())
    assert (note["reason"], note["bytes"], note["name"]) == (reason, len(content), "MUELLER_HANS/scan of Mueller")
    assert note["message"] and note["received_at"]
    assert "mueller" not in str(path).lower() and "mueller" not in caplog.text.lower()
    assert reception.count(reason, "dropfolder") == 1
    assert reception.rows("SELECT * FROM instance") == []


def test_too_big(tmp_path: Path) -> None:
    reception = Reception(tmp_path, max_instance_bytes=1024 * 1024)
    folder = reception.start_dropfolder()
    drop(folder, "big", part10(data_set(pixels=bytes(2 * 1024 * 1024))))
    wait_for(empty(folder))
    assert [reason for reason, _ in rejections(reception)] == ["too-big"]
    reception.stop()


def test_rejected_again_after_a_crash_is_one_row(reception: Reception) -> None:
    folder = reception.start_dropfolder()
    for _ in range(2):
        drop(folder, "letter", b"a letter, not an image")
        wait_for(empty(folder))
    assert len(rejections(reception)) == 1


def test_dicomdir_is_removed_quietly(reception: Reception) -> None:
    folder = reception.start_dropfolder()
    drop(folder, "cd/DICOMDIR", part10(data_set(), sop_class="1.2.840.10008.1.3.10"))
    for number in range(2):
        drop(folder, f"cd/{number}", numbered(number))
    wait_for(lambda: completed(reception) == [("folder complete", 2)])
    assert rejections(reception) == []


def test_links_and_pipes_are_left_alone(reception: Reception, tmp_path: Path) -> None:
    secret = tmp_path / "secret.dcm"
    secret.write_bytes(part10(data_set()))
    folder = reception.layout.dropfolder
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(secret)
    os.mkfifo(folder / "pipe")
    reception.start_dropfolder()
    drop(folder, "1", numbered(1))
    wait_for(lambda: stored(reception) == 1)
    wait_for(lambda: sorted(path.name for path in folder.iterdir()) == ["link", "pipe"])
    assert secret.exists()


def test_unreadable_file_is_reported_once_and_tried_again(
    reception: Reception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = os.open
    attempts = []

    def denied(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("locked"):
            attempts.append(path)
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("appliance.intake.dropfolder.os.open", denied)
        folder = reception.start_dropfolder()
        drop(folder, "locked", numbered(1))
        wait_for(lambda: len(attempts) > 3)
        assert caplog.text.count("Permission denied") == 1
    wait_for(empty(folder))
    assert stored(reception) == 1


def test_file_that_cannot_be_removed_is_taken_once(
    reception: Reception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Path.unlink

    def denied(self: Path, missing_ok: bool = False) -> None:
        if self.name == "fixed":
            raise PermissionError(13, "Permission denied")
        real(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", denied)
    folder = reception.start_dropfolder()
    drop(folder, "fixed", numbered(1))
    wait_for(lambda: "cannot be removed" in caplog.text)
    drop(folder, "other", numbered(2))
    wait_for(lambda: stored(reception) == 2)
    assert reception.count("duplicate", "dropfolder") == 0
    assert caplog.text.count("cannot be removed") == 1


def test_below_the_mark_and_back(
    reception: Reception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reception.spool.min_free_bytes = 1024
    free = [10]
    monkeypatch.setattr(spool_module.Spool, "free_bytes", lambda self: free[0])
    folder = reception.start_dropfolder()
    drop(folder, "1", numbered(1))
    wait_for(lambda: "nothing is taken from the drop folder" in caplog.text)
    assert (folder / "1").exists()
    free[0] = 1 << 30
    wait_for(empty(folder))
    assert stored(reception) == 1 and rejections(reception) == []


def test_the_disk_does_not_take_it(reception: Reception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file stays where it is, and the role ends, as all that is on its way to the disk may be lost."""

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    folder = reception.start_dropfolder()
    with monkeypatch.context() as patch:
        patch.setattr("appliance.spool.durable.os.fsync", failing)
        drop(folder, "1", numbered(1))
        wait_for(reception.fatal.is_set)
    reception.fatal.clear()
    assert (folder / "1").exists()
    assert stored(reception) == 0


def test_folder_that_vanishes_and_comes_back(reception: Reception, caplog: pytest.LogCaptureFixture) -> None:
    folder = reception.start_dropfolder()
    folder.rmdir()
    wait_for(lambda: "the drop folder cannot be read" in caplog.text)
    folder.mkdir()
    drop(folder, "1", numbered(1))
    wait_for(empty(folder))
    assert stored(reception) == 1


# -- A crash at any point


def test_crash_after_the_promise_makes_a_duplicate_and_no_loss(
    reception: Reception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(Exception):
        pass

    def crash(*_: object) -> bool:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(DropFolder, "_put_away", crash)
        folder = reception.start_dropfolder()
        path = drop(folder, "1", numbered(1))
        assert reception.fatal.wait(5)
    assert path.exists() and stored(reception) == 1
    reception.fatal.clear()
    reception.start_dropfolder()
    wait_for(empty(folder))
    assert (stored(reception), reception.count("duplicate", "dropfolder")) == (1, 1)
    assert reception.rows("SELECT count(*) FROM instance") == [(1,)]


# -- Archives


def test_archive(reception: Reception) -> None:
    folder = reception.start_dropfolder()
    members = {f"study/{number}.dcm": numbered(number) for number in range(4)}
    drop(
        folder, "study.zip", zipped({**members, "study/DICOMDIR": part10(data_set(), sop_class="1.2.840.10008.1.3.10")})
    )
    wait_for(lambda: completed(reception) == [("archive complete", 4)])
    assert rejections(reception) == []
    wait_for(empty(folder))


def test_archive_is_known_by_its_content(reception: Reception) -> None:
    folder = reception.start_dropfolder()
    drop(folder, "sub/export", zipped({"1": numbered(1), "2": numbered(2)}))
    wait_for(empty(folder))
    assert stored(reception) == 2


def test_names_in_an_archive_are_no_paths(reception: Reception, tmp_path: Path) -> None:
    folder = reception.start_dropfolder()
    drop(folder, "evil.zip", zipped({"../../../escaped.dcm": numbered(1), "/abs/escaped.dcm": numbered(2)}))
    wait_for(empty(folder))
    assert stored(reception) == 2
    assert not list(tmp_path.rglob("*escaped*"))


def test_what_is_no_image_in_an_archive_is_kept_apart(reception: Reception) -> None:
    folder = reception.start_dropfolder()
    nested = zipped({"3": numbered(3)})
    drop(folder, "a.zip", zipped({"1": numbered(1), "readme": b"read me", "inner.zip": nested, "2": numbered(2)}))
    wait_for(lambda: completed(reception) == [("archive complete", 2)])
    found = dict(rejections(reception))
    assert found.keys() == {"not-dicom", "nested-archive"}
    kept = reception.spool.absolute(found["nested-archive"])
    assert kept.read_bytes() == nested
    assert json.loads(kept.with_suffix(".json").read_text())["name"] == "a.zip/inner.zip"


def test_damaged_archive_is_kept_as_a_whole(reception: Reception) -> None:
    folder = reception.start_dropfolder()
    content = bytearray(zipped({str(number): numbered(number) for number in range(3)}))
    second = content.index(b"PK\x03\x04", 10)
    content[second + 60] ^= 0xFF
    drop(folder, "a.zip", bytes(content))
    wait_for(empty(folder))
    [(reason, path)] = rejections(reception)
    assert reason == "damaged-archive"
    assert reception.spool.absolute(path).read_bytes() == bytes(content)
    assert stored(reception) == 1, "what came before the damage stays taken"


def test_archive_that_would_unpack_to_too_much(reception: Reception) -> None:
    folder = reception.start_dropfolder(max_archive_bytes=1024 * 1024)
    drop(folder, "bomb.zip", zipped({str(number): bytes(600 * 1024) for number in range(3)}))
    wait_for(empty(folder))
    assert [reason for reason, _ in rejections(reception)] == ["archive-too-big"]


# -- At the same time over both ways


def test_the_same_images_by_folder_and_by_archive_are_taken_once(reception: Reception) -> None:
    folder = reception.start_dropfolder()
    for number in range(3):
        drop(folder, f"sub/{number}", numbered(number))
    drop(folder, "a.zip", zipped({str(number): numbered(number) for number in range(3)}))
    wait_for(empty(folder))
    assert (stored(reception), reception.count("duplicate", "dropfolder")) == (3, 3)


def test_stop_is_quick(reception: Reception) -> None:
    reception.start_dropfolder(poll_s=60.0)
    assert reception.dropfolder is not None
    started = time.monotonic()
    reception.dropfolder.stop()
    assert time.monotonic() - started < 2
