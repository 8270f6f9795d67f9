"""Forwarding: images that go on to a PACS while they are received, beside reception alone, in turns."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.benchmarks.images import copies, ct_slice
from tests.support.daemon import Daemon
from tests.support.peers import DcmtkStoreScp
from tests.support.ports import free_port
from tests.support.waiting import wait_for


@dataclass
class Sample:
    """Of each round: seconds until the scanner is done, until the PACS has all, and CPU seconds of the two roles."""

    received: list[float] = field(default_factory=list)
    forwarded: list[float] = field(default_factory=list)
    receiver_cpu: list[float] = field(default_factory=list)
    sender_cpu: list[float] = field(default_factory=list)


def measure_forward(root: Path, rounds: int, count: int) -> dict[str, dict[str, float]]:
    """Send ``count`` CT slices to an appliance that forwards them and to one that does not; print the medians."""
    port, slices = free_port(), ct_slice(root)
    pacs = {"kind": "dicom", "name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port}
    samples: dict[str, Sample] = {}
    with ExitStack() as stack:
        daemons = {
            "received": _daemon(root / "alone", [], stack),
            "received and forwarded": _daemon(root / "forwarding", [{**pacs, "results": [], "forward": {}}], stack),
        }
        for turn in range(rounds + 1):
            for name, daemon in daemons.items():
                paths = list(copies(slices, count, root / "images").values())
                with DcmtkStoreScp(root / "pacs", port=port) as scp:
                    sample = samples.setdefault(name, Sample()) if turn else Sample()  # the first warms everything
                    _measure(daemon, scp, paths, sample, forwards=daemon is not daemons["received"])
                shutil.rmtree(root / "pacs")
                print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    figures = {name: _figures(sample, count) for name, sample in samples.items()}
    print(f"\n{f'{count} CT':26}{'received/s':>12}{'at the PACS/s':>15}{'CPU ms each: receiver':>23}{'sender':>8}")
    for name, row in figures.items():
        print(
            f"{name:26}{row['received_per_s']:12.0f}{row.get('forwarded_per_s', 0):15.0f}"
            f"{row['receiver_cpu_ms_each']:23.2f}{row['sender_cpu_ms_each']:8.2f}"
        )
    return figures


def _daemon(root: Path, destinations: Sequence[dict[str, object]], stack: ExitStack) -> Daemon:
    (root / "engines").mkdir(parents=True)
    settings = {
        "logging": {"level": "WARNING"},
        "dropfolder": {"enabled": False},
        "models": {"folder": str(root / "engines")},
    }
    daemon = Daemon(root, destinations=destinations, settings=settings)
    stack.callback(daemon.stop)
    daemon.start()
    return daemon


def _measure(daemon: Daemon, scp: DcmtkStoreScp, paths: Sequence[Path], sample: Sample, *, forwards: bool) -> None:
    command = ["storescu", "-R", "-aet", "SCANNER", "-aec", "APPLIANCE", "127.0.0.1", str(daemon.dicom_port)]
    before, started = _cpu(daemon), time.monotonic()
    subprocess.run([*command, *map(str, paths)], check=True, env=os.environ | {"TCP_NODELAY": "1"})
    sample.received.append(time.monotonic() - started)
    if forwards:
        wait_for(lambda: len(scp.files()) == len(paths), 120, what="the PACS to have all")
        sample.forwarded.append(time.monotonic() - started)
    after = _cpu(daemon)
    sample.receiver_cpu.append(after[0] - before[0])
    sample.sender_cpu.append(after[1] - before[1])


def _cpu(daemon: Daemon) -> tuple[float, float]:
    times = [psutil.Process(daemon.pid(role)).cpu_times() for role in ("receiver", "sender")]
    receiver, sender = (found.user + found.system for found in times)
    return receiver, sender


def _figures(sample: Sample, count: int) -> dict[str, float]:
    figures = {
        "received_per_s": round(count / statistics.median(sample.received), 1),
        "receiver_cpu_ms_each": round(statistics.median(sample.receiver_cpu) / count * 1000, 2),
        "sender_cpu_ms_each": round(statistics.median(sample.sender_cpu) / count * 1000, 2),
    }
    if sample.forwarded:
        figures["forwarded_per_s"] = round(count / statistics.median(sample.forwarded), 1)
    return figures
