"""Delivery into a folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from appliance.delivery.folder import Folder
from appliance.errors import DestinationUnreachable
from tests.support.outbox import folder
from tests.support.result_files import result_file


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_names_tell_the_kind_and_no_uid(tmp_path: Path) -> None:
    file = result_file(tmp_path / "spool", "seg", "1")
    (tmp_path / "share").mkdir()

    Folder(folder(tmp_path / "share")).send(file)

    (name,) = names(tmp_path / "share")
    assert name.startswith("seg-")
    assert name.endswith(".dcm")
    assert file.sop_instance_uid not in name
    assert (tmp_path / "share" / name).read_bytes() == file.path.read_bytes()


def test_bytes_are_durable_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = result_file(tmp_path / "spool", "sr", "1")
    share = tmp_path / "share"
    share.mkdir()
    synced: list[list[str]] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (real(descriptor), synced.append(names(share))))

    Folder(folder(share)).send(file)

    first, second = synced
    assert [name.endswith(".part") for name in first] == [True]
    assert [name.endswith(".dcm") for name in second] == [True]


@pytest.mark.parametrize(
    ("number", "word"), [(errno.ENOSPC, "Make room"), (errno.EDQUOT, "Make room"), (errno.EIO, "Look at the folder")]
)
def test_a_disk_in_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, word: str) -> None:
    file = result_file(tmp_path / "spool", "sr", "1")
    share = tmp_path / "share"
    share.mkdir()

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DestinationUnreachable, match=word):
            Folder(folder(share)).send(file)
    assert names(share) == [], "no half a file is left"

    Folder(folder(share)).send(file)
    assert len(names(share)) == 1


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "share").touch()
    with pytest.raises(DestinationUnreachable, match="Name a folder"):
        Folder(folder(tmp_path / "share")).send(result_file(tmp_path / "spool", "sr", "1"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write in every folder")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir(mode=0o555)
    with pytest.raises(DestinationUnreachable, match="Let the user"):
        Folder(folder(tmp_path / "share")).send(result_file(tmp_path / "spool", "sr", "1"))


def test_a_file_system_that_is_not_writable(tmp_path: Path) -> None:
    with pytest.raises(DestinationUnreachable):
        Folder(folder(Path("/sys"))).send(result_file(tmp_path / "spool", "sr", "1"))


def test_what_a_killed_attempt_left_is_overwritten(tmp_path: Path) -> None:
    file = result_file(tmp_path / "spool", "sr", "1")
    share = tmp_path / "share"
    share.mkdir()
    Folder(folder(share)).send(file)
    (name,) = names(share)
    (share / f".{name}.part").write_bytes(bytes(100_000))
    (share / name).unlink()

    Folder(folder(share)).send(file)

    assert names(share) == [name]
    assert (share / name).read_bytes() == file.path.read_bytes()
