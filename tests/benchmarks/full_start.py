"""How long ``appliance run`` takes until every role serves, after a crash: with a full spool and an empty one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path

from appliance.config.layout import StateLayout
from tests.benchmarks.images import copies
from tests.support.daemon import Daemon
from tests.support.waiting import wait_for

_ROLES = ("receiver", "sender", "console", "worker-0")
_IN_A_SERIES = 100
_CUT_SHORT = 64


def fill_spool(layout: StateLayout, files: int, left: int, image: bytes) -> None:
    """Put ``files`` images and a tenth as many results into a spool that nobody has used yet.

    ``left`` images were promised and lack their rows in the journal, some others were cut short.
    """
    for series in range(files // _IN_A_SERIES):
        folder = layout.spool / "instances" / f"1.2.826.1.{series}" / f"1.2.826.2.{series}"
        folder.mkdir(parents=True)
        for number in range(_IN_A_SERIES):
            (folder / f"1.2.826.3.{series}.{number}.dcm").write_bytes(b"image")
    for job in range(files // 10):
        folder = layout.spool / "results" / str(job) / "1"
        folder.mkdir(parents=True)
        (folder / "sr.dcm").write_bytes(b"result")
    incoming = layout.spool / "incoming"
    incoming.mkdir(parents=True)
    for number in range(_CUT_SHORT):
        (incoming / f"dicom-cut-{number}.dcm").touch()
    for number, path in enumerate(copies(image, left, layout.root / "images").values()):
        path.chmod(0o400)
        path.rename(incoming / f"dicom-left-{number}.dcm")


def measure_start(daemons: Mapping[str, Daemon], rounds: int) -> dict[str, dict[str, float]]:
    """Start each in turn and kill it once it serves; return the medians in seconds, and the first start of each."""
    seconds: dict[str, list[float]] = {which: [] for which in daemons}
    for _ in range(rounds):
        for which, daemon in daemons.items():
            ready = [daemon.layout.run / f"{role}.ready" for role in _ROLES]
            for file in ready:
                file.unlink(missing_ok=True)
            started = time.monotonic()
            daemon.start(ready=False)
            wait_for(lambda ready=ready: all(map(Path.exists, ready)), 60, what="all roles to be ready")
            seconds[which].append(time.monotonic() - started)
            daemon.kill_all()
    return {
        which: {"first": round(taken[0], 2), "median": round(statistics.median(taken[1:]), 2)}
        for which, taken in seconds.items()
    }
