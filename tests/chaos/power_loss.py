"""What a power failure leaves of the state folder: of each file only what was synced, as the preload has noted it."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path

from appliance.config.layout import StateLayout
from tests.chaos.preload import Faults

_HEAD_BYTES, _FRAME_HEAD_BYTES = 32, 24
"""Of a write-ahead log (https://sqlite.org/fileformat2.html#walformat)."""


def lose_power(layout: StateLayout, faults: Faults, rng: random.Random) -> str:
    """Take from the disk what a power failure could have taken; all processes are dead. Say what it was.

    Of names only those are taken that a promised file may still lack: its place in the spool.
    """
    files = {path: path.stat() for path in layout.spool.rglob("*") if path.is_file()}
    contents = _lose_unsynced_contents(files, faults.synced_files(), rng)
    names = _lose_unsynced_names(files, layout.spool / "incoming", rng)
    frames = _lose_unsynced_commits(layout.journal.with_name(f"{layout.journal.name}-wal"), *faults.synced_log())
    return f"{contents} unsynced file(s) cut short, {names} name(s) and {frames} frame(s) of the journal gone"


def _lose_unsynced_contents(files: Mapping[Path, os.stat_result], synced: frozenset[int], rng: random.Random) -> int:
    lost = [path for path, status in files.items() if status.st_size and status.st_ino not in synced]
    for path in lost:
        os.truncate(path, rng.randrange(files[path].st_size))
    return len(lost)


def _lose_unsynced_names(files: Mapping[Path, os.stat_result], incoming: Path, rng: random.Random) -> int:
    """A file that still has its first name may not have its second one."""
    first = {status.st_ino for path, status in files.items() if path.parent == incoming}
    second = [path for path, status in files.items() if path.parent != incoming and status.st_ino in first]
    lost = [path for path in second if rng.random() < 0.5]
    for path in lost:
        path.unlink()
    return len(lost)


def _lose_unsynced_commits(log: Path, frames: int, salt: bytes) -> int:
    """Cut the write-ahead log after its last synced frame; one that was never synced is gone."""
    if not log.exists() or log.stat().st_size <= _HEAD_BYTES:
        return 0
    with log.open("r+b") as stream:
        head = stream.read(_HEAD_BYTES)
        frame_bytes = _FRAME_HEAD_BYTES + int.from_bytes(head[8:12], "big")
        kept = _HEAD_BYTES + frames * frame_bytes if head[16:20] == salt else 0
        size = log.stat().st_size
        if kept >= size:
            return 0
        stream.seek(max(kept, _HEAD_BYTES))
        lost = _frames_of_this_log(stream.read(), frame_bytes, head[16:24])
        stream.truncate(kept)
    return lost


def _frames_of_this_log(content: bytes, frame_bytes: int, salt: bytes) -> int:
    """How many frames are of this log; those behind are of earlier ones, which lie in the database long since."""
    count = 0
    while content[count * frame_bytes + 8 : count * frame_bytes + 16] == salt:
        count += 1
    return count
