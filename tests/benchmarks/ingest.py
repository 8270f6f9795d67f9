"""Reception: the appliance's receiver beside dcmtk, Orthanc, and the raw limit of this machine, in one interleaved run.

There are two limits: a process that does what any durable receiver has to do and nothing else (read the bytes of an
image from TCP, write them to a file, fsync, answer with one byte), and one that does the same in DICOM without looking
at anything. The sender of all but the first is dcmtk's ``storescu``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.benchmarks.images import copies, ct_slice, dx_image
from tests.support.daemon import Daemon
from tests.support.peers import DcmtkStoreScp, Orthanc
from tests.support.studies import REPOSITORY

_ASSOCIATIONS = 4
_NAGLE = "60 CT, sender with Nagle"
"""As many scanners send: with Nagle's algorithm, which waits for acknowledgements that others put off."""


@dataclass
class Receiver:
    """One that is measured, and the command that sends to it."""

    name: str
    sender: list[str]
    process: psutil.Process
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)


def measure_ingest(rounds: int, count: int) -> dict[str, object]:
    """Send ``count`` CT slices on one association and on four, and some radiographs, in turns; print the medians."""
    # Without it Nagle's algorithm, which Debian's dcmtk leaves on, costs senders and receivers 40 ms for each image.
    os.environ["TCP_NODELAY"] = "1"
    cache = REPOSITORY / ".cache"
    with tempfile.TemporaryDirectory(dir=cache, prefix="ingest-") as name, ExitStack() as stack:
        root = Path(name)
        receivers = _start(root, stack)
        slices, radiographs = ct_slice(root), dx_image(root)
        works = {
            f"{count} CT, 1 association": (slices, count, 1),
            f"{count} CT, {_ASSOCIATIONS} associations": (slices, count, _ASSOCIATIONS),
            "20 DX, 1 association": (radiographs, 20, 1),
            _NAGLE: (slices, 60, 1),
        }
        for turn in range(rounds + 1):
            for work, (template, number, associations) in works.items():
                for receiver in receivers:
                    paths = list(copies(template, number, root / "images").values())
                    _measure(receiver, work, paths, associations, keep=turn > 0)  # the first warms everything
                    print(".", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        figures = {
            work: {receiver.name: _figures(receiver, work, number, len(template)) for receiver in receivers}
            for work, (template, number, _) in works.items()
        }
        memory = {receiver.name: receiver.process.memory_info().rss >> 20 for receiver in receivers}
    _show(figures, memory, rounds)
    return {"rounds": rounds, "reception": figures, "memory_mb": memory}


def _start(root: Path, stack: ExitStack) -> list[Receiver]:
    (root / "engines").mkdir()
    daemon = Daemon(
        root / "appliance",
        settings={
            "logging": {"level": "WARNING"},
            "dropfolder": {"enabled": False},
            "models": {"folder": str(root / "engines")},
        },
    )
    stack.callback(daemon.stop)
    daemon.start()
    dcmtk = stack.enter_context(DcmtkStoreScp(root / "dcmtk"))
    orthanc = stack.enter_context(Orthanc(root / "orthanc"))
    limit, raw_port = _start_limit("receive", root / "raw", stack)
    dicom_limit, dicom_port = _start_limit("receive-dicom", root / "raw-dicom", stack)
    raw = [sys.executable, "-m", "tests.benchmarks.raw_limit", "send", str(raw_port)]
    receiver = daemon.pid("receiver")
    assert receiver is not None
    return [
        Receiver("raw TCP + fsync", raw, limit),
        Receiver("bare DICOM + fsync", _storescu("ANY", dicom_port), dicom_limit),
        Receiver("appliance", _storescu("APPLIANCE", daemon.dicom_port), psutil.Process(receiver)),
        Receiver("dcmtk storescp", _storescu("ANY", dcmtk.port), psutil.Process(dcmtk.process_id)),
        Receiver("Orthanc", _storescu("ORTHANC", orthanc.port), psutil.Process(orthanc.process_id)),
    ]


def _start_limit(command: str, folder: Path, stack: ExitStack) -> tuple[psutil.Process, int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.raw_limit", command, str(folder)], stdout=subprocess.PIPE, text=True
    )
    stack.callback(process.kill)
    assert process.stdout is not None
    return psutil.Process(process.pid), int(process.stdout.readline())


def _storescu(called: str, port: int) -> list[str]:
    return ["storescu", "-R", "-aet", "SCANNER", "-aec", called, "127.0.0.1", str(port)]


def _measure(receiver: Receiver, work: str, paths: Sequence[Path], associations: int, *, keep: bool) -> None:
    environment = os.environ | {"TCP_NODELAY": "0" if work == _NAGLE else "1"}
    before, started = receiver.process.cpu_times(), time.monotonic()
    running = [
        subprocess.Popen([*receiver.sender, *map(str, paths[start::associations])], env=environment)
        for start in range(associations)
    ]
    if sum(process.wait(300) != 0 for process in running):
        raise AssertionError(f"{receiver.name} did not take every image")
    seconds, after = time.monotonic() - started, receiver.process.cpu_times()
    if keep:
        receiver.seconds.setdefault(work, []).append(seconds)
        receiver.cpu.setdefault(work, []).append(after.user + after.system - before.user - before.system)


def _figures(receiver: Receiver, work: str, number: int, size: int) -> dict[str, float]:
    seconds = receiver.seconds[work]
    median = statistics.median(seconds)
    return {
        "images_per_s": round(number / median, 1),
        "least": round(number / max(seconds), 1),
        "most": round(number / min(seconds), 1),
        "mb_per_s": round(number * size / median / 1e6, 1),
        "cpu_ms_each": round(statistics.median(receiver.cpu[work]) / number * 1000, 2),
    }


def _show(figures: dict[str, dict[str, dict[str, float]]], memory: dict[str, int], rounds: int) -> None:
    print(f"Reception, medians of {rounds} interleaved rounds; the sender is dcmtk's storescu with TCP_NODELAY")
    for work, rows in figures.items():
        print(
            f"\n{work:28}{'images/s':>10}{'least–most':>16}{'MB/s':>8}{'CPU ms each':>13}{'× raw':>8}{'× Orthanc':>11}"
        )
        for name, row in rows.items():
            raw, orthanc = (
                row["images_per_s"] / rows[other]["images_per_s"] for other in ("raw TCP + fsync", "Orthanc")
            )
            span = f"{row['least']:.0f}–{row['most']:.0f}"
            print(
                f"{name:28}{row['images_per_s']:10.0f}{span:>16}{row['mb_per_s']:8.0f}{row['cpu_ms_each']:13.2f}"
                f"{raw:8.2f}{orthanc:11.2f}"
            )
    print("\nMemory, MB: " + ", ".join(f"{name} {size}" for name, size in memory.items()))
