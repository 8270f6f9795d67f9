"""Incoming files: named before they come, promised in one flush, placed, and taken up again after a crash."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from appliance.errors import ConfigurationError
from appliance.spool.incoming import Incoming, IncomingFolder


@pytest.fixture
def folder(tmp_path: Path) -> IncomingFolder:
    return IncomingFolder(tmp_path / "incoming")


def received(folder: IncomingFolder, content: bytes = b"DICM", source: str = "dicom") -> Incoming:
    incoming = folder.new(source)
    incoming.write(content)
    return incoming


def names(folder: IncomingFolder) -> set[str]:
    return {path.name for path in folder.folder.iterdir()}


def test_each_file_has_a_name_of_its_own(folder: IncomingFolder) -> None:
    opened = [folder.new(source) for source in ("dicom", "dropfolder") for _ in range(100)]
    assert len({incoming.path for incoming in opened}) == 200
    assert all(incoming.path.read_bytes() == b"" for incoming in opened)
    for incoming in opened:
        incoming.close()


def test_files_are_private_to_the_user(folder: IncomingFolder) -> None:
    incoming = received(folder)
    assert incoming.path.stat().st_mode & 0o077 == 0
    incoming.promise(1.0)
    assert incoming.path.stat().st_mode & 0o277 == 0
    incoming.close()


def test_names_are_on_the_disk_before_they_are_given(folder: IncomingFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("appliance.spool.incoming.fsync_folder", lambda path: synced.append(len(names(folder))))
    for _ in range(65):
        folder.new("dicom").close()
    assert synced == [64, 64]
    folder.prepare()
    assert synced == [64, 64]
    for _ in range(40):
        folder.new("dicom").close()
    folder.prepare()
    assert len(synced) == 3


def test_without_a_promise_nothing_stays(folder: IncomingFolder) -> None:
    incoming = received(folder)
    incoming.close()
    incoming.close()
    assert not incoming.path.exists()
    withdrawn = received(folder)
    withdrawn.promise(1.0)
    withdrawn.withdraw()
    withdrawn.close()
    assert not withdrawn.path.exists()
    folder.close()
    assert names(folder) == set()


def test_a_promise_is_found_again_and_the_rest_is_swept(folder: IncomingFolder) -> None:
    half = received(folder, b"half of it")
    for number, source in ((2.5, "dropfolder"), (1.5, "dicom")):
        incoming = received(folder, source=source)
        incoming.promise(number)
        incoming.close()
    (folder.folder / "somebody's file").touch()
    later = IncomingFolder(folder.folder)
    assert later.sweep() == 1, "empty files are not worth a word"
    assert not half.path.exists()
    assert [(arrival.source, arrival.received_at) for arrival in later.left()] == [("dicom", 1.5), ("dropfolder", 2.5)]
    assert "somebody's file" in names(folder)
    half.close()


def test_placing_replaces_what_a_crash_left(folder: IncomingFolder, tmp_path: Path) -> None:
    target = tmp_path / "instances" / "1.2" / "1.2.3" / "1.2.3.4.dcm"
    for content in (b"first", b"second"):
        incoming = received(folder, content)
        incoming.promise(1.0)
        folder.place(incoming.path, target)
        folder.place(incoming.path, target)
        incoming.close()
        assert target.read_bytes() == content and target.samefile(incoming.path)


def test_the_first_name_goes_when_the_second_is_on_the_disk(
    folder: IncomingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "instances" / "1.2" / "1.2.3" / "1.2.3.4.dcm"
    incoming = received(folder)
    incoming.promise(1.0)
    incoming.close()
    folder.place(incoming.path, target)
    assert folder.take() == [], "the journal does not have it yet"
    folder.follow(incoming.path)
    synced: list[Path] = []

    def sync(path: Path) -> None:
        assert incoming.path.exists()
        synced.append(path.relative_to(tmp_path))

    monkeypatch.setattr("appliance.spool.incoming.fsync_folder", sync)
    folder.finish(folder.take())
    assert not incoming.path.exists() and target.exists()
    assert set(synced) == {Path(name) for name in (".", "instances", "instances/1.2", "instances/1.2/1.2.3")}
    synced.clear()
    folder.finish(folder.take())
    assert synced == []


def test_after_a_failing_disk_the_first_name_is_still_there(
    folder: IncomingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    incoming = received(folder)
    incoming.promise(1.0)
    incoming.close()
    folder.place(incoming.path, tmp_path / "a" / "b.dcm")
    folder.follow(incoming.path)

    def failing(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("appliance.spool.incoming.fsync_folder", failing)
    with pytest.raises(OSError, match="Input/output"):
        folder.finish(folder.take())
    assert [arrival.path for arrival in folder.left()] == [incoming.path]


def test_a_file_system_without_hard_links_is_named_at_the_start(
    folder: IncomingFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.require_links()

    def failing(number: int) -> None:
        def link(source: Path, target: Path) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "link", link)

    failing(errno.ENOSPC)
    folder.require_links()  # a full disk does not keep the receiver from starting
    failing(errno.EPERM)
    with pytest.raises(ConfigurationError, match="found Operation not permitted, expected hard links"):
        folder.require_links()
    assert names(folder) == set()
