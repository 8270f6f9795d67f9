"""A file is whole when it has not changed for a while."""

from __future__ import annotations

import os
from pathlib import Path

from appliance.intake.quiet_files import QuietFiles, remove_emptied


def names(files: QuietFiles, root: Path, now: float) -> list[str]:
    return [path.relative_to(root).as_posix() for path, _ in files.look(now).whole]


def test_whole_after_it_was_quiet(tmp_path: Path) -> None:
    files = QuietFiles(tmp_path, quiet_s=2.0)
    (tmp_path / "a").write_bytes(b"1")
    assert names(files, tmp_path, 0.0) == []
    assert names(files, tmp_path, 1.5) == []
    (tmp_path / "a").write_bytes(b"12")
    assert names(files, tmp_path, 2.5) == []
    assert names(files, tmp_path, 4.5) == ["a"]


def test_waits_just_long_enough(tmp_path: Path) -> None:
    files = QuietFiles(tmp_path, quiet_s=2.0)
    (tmp_path / "a").write_bytes(b"1")
    assert files.look(10.0).wait_s == 2.0
    assert files.look(11.5).wait_s == 0.5
    assert files.look(12.0).wait_s is None


def test_another_file_under_the_same_name_begins_anew(tmp_path: Path) -> None:
    files = QuietFiles(tmp_path, quiet_s=2.0)
    (tmp_path / "a").write_bytes(b"1")
    files.look(0.0)
    (tmp_path / "b").write_bytes(b"2")
    os.utime(tmp_path / "b", ns=(0, (tmp_path / "a").stat().st_mtime_ns))
    (tmp_path / "b").rename(tmp_path / "a")
    assert names(files, tmp_path, 3.0) == []


def test_what_is_left_alone(tmp_path: Path) -> None:
    files = QuietFiles(tmp_path, quiet_s=1.0)
    sub = tmp_path / "sub"
    (sub / ".hidden").mkdir(parents=True)
    for name in (
        "x.part",
        "x.TMP",
        "x~",
        "x.filepart",
        "x.crdownload",
        ".x.dcm.Ab12",
        ".hidden/x",
        "Thumbs.db",
        "good",
    ):
        (sub / name).write_bytes(b"1")
    (sub / "link").symlink_to("/etc/passwd")
    (tmp_path / "linked-folder").symlink_to("/etc")
    os.mkfifo(sub / "pipe")
    files.look(0.0)
    view = files.look(2.0)
    assert [path.name for path, _ in view.whole] == ["good"]
    assert view.occupied == {"sub"}
    assert view.folders == {"sub"}


def test_occupied_sub_folders(tmp_path: Path) -> None:
    for name in ("empty/deep", "litter", "file", "unfinished", "link"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "litter" / ".DS_Store").write_bytes(b"1")
    (tmp_path / "file" / "1").write_bytes(b"1")
    (tmp_path / "unfinished" / "1.part").write_bytes(b"1")
    (tmp_path / "link" / "1").symlink_to("nowhere")
    view = QuietFiles(tmp_path, quiet_s=1.0).look(0.0)
    assert view.folders == {"empty", "litter", "file", "unfinished", "link"}
    assert view.occupied == {"file", "unfinished", "link"}


def test_remove_emptied(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "b" / ".DS_Store").write_bytes(b"1")
    (tmp_path / "a" / "kept").mkdir()
    (tmp_path / "a" / "kept" / "new.dcm").write_bytes(b"1")
    remove_emptied(tmp_path / "a")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["a", "a/kept", "a/kept/new.dcm"]
    (tmp_path / "a" / "kept" / "new.dcm").unlink()
    remove_emptied(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
