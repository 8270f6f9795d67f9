"""The preload does what it is told, where it is told, and nothing else."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.preload import NO_COMPILER, Faults

pytestmark = pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER))

DISK_WORK = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def number(work):
    try:
        work()
    except OSError as error:
        return error.errno
    return 0
descriptor = os.open(folder / "there", os.O_RDWR)
print(json.dumps({
    "write": number(lambda: os.write(descriptor, b"x")),
    "pwrite": number(lambda: os.pwrite(descriptor, b"x", 0)),
    "fsync": number(lambda: os.fsync(descriptor)),
    "fdatasync": number(lambda: os.fdatasync(descriptor)),
    "create": number(lambda: (folder / "new").touch()),
    "mkdir": number(lambda: (folder / "folder").mkdir()),
    "link": number(lambda: os.link(folder / "there", folder / "second")),
    "rename": number(lambda: (folder / "second").rename(folder / "third")),
    "free": os.statvfs(folder).f_bavail,
    "time": time.time(),
    "monotonic": time.monotonic(),
}))
"""


def work(faults: Faults, folder: Path) -> dict[str, Any]:
    """What a process in which faults may come finds in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "there").touch()
    done = subprocess.run(
        [sys.executable, "-c", DISK_WORK, str(folder)],
        env=faults.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


WORKS = ("write", "pwrite", "fsync", "fdatasync", "create", "mkdir", "link", "rename")


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path / "faults", tmp_path / "below")


def test_nothing_fails_before_it_is_told(faults: Faults, tmp_path: Path) -> None:
    found = work(faults, tmp_path / "below")
    assert {name: found[name] for name in WORKS} == dict.fromkeys(WORKS, 0)
    assert found["free"] > 0
    assert abs(found["time"] - time.time()) < 10
    assert faults.met == 0


def test_a_full_disk(faults: Faults, tmp_path: Path) -> None:
    faults.disk_full(True)
    found = work(faults, tmp_path / "below")
    assert {name: found[name] for name in WORKS} == dict.fromkeys(WORKS, errno.ENOSPC) | {
        "fsync": 0,
        "fdatasync": 0,
        "rename": errno.ENOSPC,
    }
    assert found["free"] == 0
    other = work(faults, tmp_path / "other")
    assert not any(other[name] for name in WORKS), "another folder is no part of this"
    faults.lift()
    found = work(faults, tmp_path / "below")
    assert not any(found[name] for name in WORKS)


def test_fsyncs_fail_as_often_as_told(faults: Faults, tmp_path: Path) -> None:
    faults.fail_fsyncs(1)
    found = work(faults, tmp_path / "below")
    assert (found["fsync"], found["fdatasync"]) == (errno.EIO, 0)
    assert faults.met == 1


def test_the_clock(faults: Faults, tmp_path: Path) -> None:
    faults.clock(-7200)
    before = time.monotonic()
    found = work(faults, tmp_path / "below")
    assert abs(found["time"] + 7200 - time.time()) < 10
    assert before < found["monotonic"] < time.monotonic()


def test_what_was_synced_is_noted(faults: Faults, tmp_path: Path) -> None:
    work(faults, tmp_path / "below")
    assert faults.synced_files() == {(tmp_path / "below" / "there").stat().st_ino}
