"""What makes files survive power loss, seen by the system calls that are made and their order."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.spool.durable import ensure_folder, fsync_file, fsync_folder, move_into_place, write_durably


class Calls(list[tuple[str, str]]):
    """``fsync`` and ``rename`` calls, in order, with the path that they are about."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    found = Calls()
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        found.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> Path:
        found.append(("rename", str(target)))
        return real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    return found


def test_bytes_then_name_then_folder(tmp_path: Path, calls: Calls) -> None:
    write_durably(tmp_path / "a", b"content")
    assert [call for call, _ in calls] == ["fsync", "rename", "fsync"]
    assert calls[0][1].startswith(f"{tmp_path}/.a.")
    assert calls[1:] == [("rename", f"{tmp_path}/a"), ("fsync", str(tmp_path))]
    assert (tmp_path / "a").read_bytes() == b"content"


def test_a_move_makes_its_folders_durable_first(tmp_path: Path, calls: Calls) -> None:
    source = tmp_path / "source"
    source.touch()
    move_into_place(source, tmp_path / "x" / "y" / "target")
    assert calls == [
        ("fsync", str(tmp_path)),
        ("fsync", f"{tmp_path}/x"),
        ("rename", f"{tmp_path}/x/y/target"),
        ("fsync", f"{tmp_path}/x/y"),
    ]


def test_an_existing_folder_costs_no_sync(tmp_path: Path, calls: Calls) -> None:
    ensure_folder(tmp_path)
    assert calls == []


def test_many_threads_make_one_folder(tmp_path: Path) -> None:
    """The images of one series arrive over several associations at once."""
    deep = tmp_path.joinpath("a", "b", "c", "d")
    errors: list[BaseException] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        try:
            ensure_folder(deep)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test has to see it
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert deep.is_dir()


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        ensure_folder(tmp_path / "file" / "folder")
    with pytest.raises(FileExistsError):
        ensure_folder(tmp_path / "file")


def test_the_old_content_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half-written is ever under the name, and what could not be written leaves no litter on a full disk."""
    target = tmp_path / "a"
    write_durably(target, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_writers_of_one_name_do_not_mix(tmp_path: Path) -> None:
    """Two threads of one process: one of them wins, whole."""
    target = tmp_path / "a"
    contents = [bytes([letter]) * 200_000 for letter in b"abcdefgh"]
    threads = [threading.Thread(target=write_durably, args=(target, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("sync", [fsync_file, fsync_folder])
def test_a_sync_that_fails_is_raised_and_never_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: Callable[[Path], None]
) -> None:
    """The kernel may have dropped the pages: a second sync would report success for lost data."""
    tries = 0

    def broken(_: int) -> None:
        nonlocal tries
        tries += 1
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a").touch()
    monkeypatch.setattr(os, "fsync", broken)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="Input/output"):
        sync(tmp_path / "a" if sync is fsync_file else tmp_path)
    assert tries == 1
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
