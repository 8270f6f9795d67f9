"""Delivery: the appliance's sender beside dcmtk's ``storescu``, with the same files and the same receiver, in turns."""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml
from pydicom import dcmread

from appliance.config.layout import StateLayout
from tests.benchmarks.forward import measure_forward
from tests.benchmarks.images import copies, ct_slice, dx_image, template
from tests.support.outbox import Outbox, pacs
from tests.support.peers import DcmtkStoreScp
from tests.support.ports import free_port
from tests.support.result_files import outgoing, result_file
from tests.support.studies import REPOSITORY
from tests.support.waiting import wait_for


@dataclass
class Sample:
    """Of one sender at one kind of work: wall-clock and CPU seconds of each round."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure_deliver(rounds: int, count: int) -> dict[str, object]:
    """Send CT slices, SR documents and radiographs, in turns, then forward CT slices; print the medians."""
    # Without it Nagle's algorithm, which Debian's dcmtk leaves on, costs senders and receivers 40 ms for each image.
    os.environ["TCP_NODELAY"] = "1"
    with tempfile.TemporaryDirectory(dir=REPOSITORY / ".cache", prefix="deliver-") as name, ExitStack() as stack:
        root = Path(name)
        sender = _Sender(root, stack)
        report = template(result_file(root / "sr", "sr", "report").path)
        works = {
            f"{count} CT": (ct_slice(root), count),
            f"{count} SR": (report, count),
            "20 DX": (dx_image(root), 20),
        }
        samples = {work: {"appliance": Sample(), "dcmtk storescu": Sample()} for work in works}
        for turn in range(rounds + 1):
            for work, (content, number) in works.items():
                kept = samples[work] if turn else {}  # the first warms everything
                folder = sender.outbox.spool.results / "images"
                files = copies(content, number, folder)
                for who, measure in (("appliance", sender.measure), ("dcmtk storescu", _storescu)):
                    with DcmtkStoreScp(root / "pacs", port=sender.port) as scp:
                        seconds, cpu = measure(scp.port, files)
                        assert len(scp.files()) == number
                    shutil.rmtree(root / "pacs")
                    if who in kept:
                        kept[who].seconds.append(seconds)
                        kept[who].cpu.append(cpu)
                    print(".", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        memory = sender.process.memory_info().rss >> 20
        figures = {
            work: {who: _figures(sample, number, len(content)) for who, sample in samples[work].items()}
            for work, (content, number) in works.items()
        }
        _show(figures, memory, rounds)
        forwarding = measure_forward(root, rounds, count)
    return {"rounds": rounds, "delivery": figures, "forwarding": forwarding, "memory_mb": memory}


class _Sender:
    """The sender role in a process of its own, with an outbox to put files into."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        layout = StateLayout(root / "state")
        self.port = free_port()
        self._destination = pacs(self.port)
        config = root / "appliance.yaml"
        destination = self._destination.model_dump(mode="json")
        config.write_text(yaml.safe_dump({"destinations": [destination], "logging": {"level": "WARNING"}}))
        command = [sys.executable, "-m", "appliance", "role", "sender", "-c", str(config)]
        running = subprocess.Popen([*command, "--state-dir", str(layout.root)])
        stack.callback(running.wait, 10)
        stack.callback(running.terminate)
        wait_for(lambda: (layout.run / "sender.ready").exists(), 30, what="the sender to be ready")
        self.process = psutil.Process(running.pid)
        self.outbox = Outbox(layout.root, journal=layout.journal)
        stack.callback(self.outbox.close)
        self._journal = sqlite3.connect(layout.journal)
        stack.callback(self._journal.close)

    def measure(self, port: int, files: Mapping[str, Path]) -> tuple[float, float]:
        """Wall-clock seconds from the hint to the last delivery's end, and the CPU seconds of the sender."""
        kind = "sr" if dcmread(next(iter(files.values())), stop_before_pixels=True).Modality == "SR" else "sc"
        results = [outgoing(path, kind) for path in files.values()]
        before = self.process.cpu_times()
        self.outbox.put_files(next(iter(files)), [self._destination], results)
        started = time.time()
        wait_for(self._is_done, 120, what="the delivery")
        (ended,) = self._journal.execute("SELECT max(finished_at) FROM delivery").fetchone()
        after = self.process.cpu_times()
        return ended - started, after.user + after.system - before.user - before.system

    def _is_done(self) -> bool:
        found = self._journal.execute("SELECT 1 FROM delivery WHERE state IN ('queued', 'sending') LIMIT 1").fetchone()
        return found is None


def _storescu(port: int, files: Mapping[str, Path]) -> tuple[float, float]:
    command = ["storescu", "-R", "-aec", "PACS", "127.0.0.1", str(port), *map(str, files.values())]
    before, started = os.times(), time.monotonic()
    subprocess.run(command, check=True)
    seconds, after = time.monotonic() - started, os.times()
    return seconds, sum(after[2:4]) - sum(before[2:4])


def _figures(sample: Sample, number: int, size: int) -> dict[str, float]:
    median = statistics.median(sample.seconds)
    return {
        "objects_per_s": round(number / median, 1),
        "least": round(number / max(sample.seconds), 1),
        "most": round(number / min(sample.seconds), 1),
        "mb_per_s": round(number * size / median / 1e6, 1),
        "cpu_ms_each": round(statistics.median(sample.cpu) / number * 1000, 2),
    }


def _show(figures: Mapping[str, Mapping[str, Mapping[str, float]]], memory: int, rounds: int) -> None:
    print(f"Delivery to dcmtk's storescp, medians of {rounds} interleaved rounds, all with TCP_NODELAY")
    for work, rows in figures.items():
        print(f"\n{work:18}{'objects/s':>10}{'least–most':>16}{'MB/s':>8}{'CPU ms each':>13}{'× storescu':>12}")
        for who, row in rows.items():
            ratio = row["objects_per_s"] / rows["dcmtk storescu"]["objects_per_s"]
            span = f"{row['least']:.0f}–{row['most']:.0f}"
            print(
                f"{who:18}{row['objects_per_s']:10.0f}{span:>16}{row['mb_per_s']:8.0f}{row['cpu_ms_each']:13.2f}"
                f"{ratio:12.2f}"
            )
    print(f"\nMemory of the sender, MB: {memory}")
