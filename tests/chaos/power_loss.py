"""What a power failure leaves of the state folder: of each file only what was synced, as the preload has noted it."""

from __future__ import annotations

import random
from pathlib import Path

from appliance.config.layout import StateLayout
from tests.chaos.preload import Faults

_HEAD_BYTES, _FRAME_HEAD_BYTES = 32, 24
"""Of a write-ahead log (https://sqlite.org/fileformat2.html#walformat)."""


def lose_power(layout: StateLayout, faults: Faults, rng: random.Random) -> str:
    """Take from the disk what a power failure could have taken; all processes are dead. Say what it was.

    Names that were not synced stay, which is the one thing that is kinder here than in life.
    """
    files = _lose_unsynced_files(layout.spool, faults.synced_files(), rng)
    frames = _lose_unsynced_commits(layout.journal.with_name(f"{layout.journal.name}-wal"), *faults.synced_log())
    return f"{files} unsynced file(s) cut short, {frames} frame(s) of the journal gone"


def _lose_unsynced_files(folder: Path, synced: frozenset[int], rng: random.Random) -> int:
    lost = 0
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        status = path.stat()
        if status.st_ino not in synced and status.st_size:
            with path.open("r+b") as stream:
                stream.truncate(rng.randrange(status.st_size))
            lost += 1
    return lost


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
