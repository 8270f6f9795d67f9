"""What work costs in a full journal, beside an empty one: the same operations on both, in turns.

The full one holds a million instances; 10,000 series are open, as many jobs wait, and twice as many deliveries. Then
the start of all roles, the full one with a full spool.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil
import yaml

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.console.collector import JournalCollector
from appliance.console.status import status_of
from appliance.journal.journal import Journal
from appliance.journal.records import Answered, Assessment, ReceivedInstance, ResultRow
from appliance.spool.spool import Spool
from tests.benchmarks.full_start import fill_spool, measure_start
from tests.benchmarks.images import copies, ct_slice
from tests.support.daemon import Daemon
from tests.support.full_journal import DESTINATION, MODEL, Filling, fill_journal
from tests.support.ports import free_port
from tests.support.studies import REPOSITORY
from tests.support.waiting import wait_for

_TURNS = 20
_FILES = 200_000
"""Images in the spool that the appliance starts with, and a tenth as many results."""
_LEFT = 300
"""Of them were promised when all was killed, and not yet in the journal: more than a second of the fastest sender."""
_STABLE_AGE_S = 3600.0
"""Longer than the benchmark takes, so that the open series stay open."""
_OWNER = "worker-0"
_UID = "1.2.826.0.1.3680043.8.498.9"
T = TypeVar("T")
Sample = dict[str, list[float]]
"""Milliseconds by what was done."""


def measure_scale(rounds: int, count: int, instances: int, waiting: int) -> dict[str, object]:
    """Work on a full and an empty journal in turns, then send ``count`` CT slices to both; print the medians."""
    os.environ["TCP_NODELAY"] = "1"  # without it Nagle's algorithm is what is measured
    with tempfile.TemporaryDirectory(dir=REPOSITORY / ".cache", prefix="scale-") as name, ExitStack() as stack:
        root = Path(name)
        layouts = {which: StateLayout(root / which) for which in ("empty", "full")}
        images = 100
        filling = Filling((instances - 6 * waiting) // images, images, waiting, time.time())
        started = time.monotonic()
        fill_journal(layouts["full"].journal, filling)
        size = layouts["full"].journal.stat().st_size
        print(f"{filling.instances} instances: {size / 1e6:.0f} MB in {time.monotonic() - started:.0f} s")
        roles = {which: _Roles(layout, stack) for which, layout in layouts.items()}
        for turn in range(rounds * _TURNS):
            for role in roles.values():
                role.work(turn)
        nodes = {which: _Node(root / f"{which}.yaml", layout, stack) for which, layout in layouts.items()}
        template = ct_slice(root)
        for turn in range(rounds + 1):
            for which, node in nodes.items():
                node.receive(list(copies(template, count, root / "images").values()), keep=turn > 0)
                print(f"\r{turn} {which} ", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        figures = {
            "operations_ms": {which: _medians(role.sample) for which, role in roles.items()},
            "reception": {which: node.figures(count) for which, node in nodes.items()},
            "start_s": _start(root, filling, template, rounds),
        }
    _show(figures, rounds)
    return {"instances": filling.instances, "waiting": waiting, "journal_mb": size // 1_000_000, **figures}


@dataclass
class _Roles:
    """Does to a journal what the roles do."""

    layout: StateLayout
    stack: ExitStack
    sample: Sample = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._journal = Journal(self.layout.journal)
        self.stack.callback(self._journal.close)
        self._spool = Spool(self.layout.spool)
        self._settings = Settings()
        self._collector = JournalCollector(self._journal, self._spool, self._settings)
        self._images = 0

    def work(self, turn: int) -> None:
        """One image and one series on their way through, and what is done from time to time."""
        journal, now = self._journal, time.time()
        yes = [Assessment(MODEL, "1.0.0", None)]
        for _ in range(5):
            self._time("register an image", partial(self._register, turn, []))
        self._time("register an image, queue its job", partial(self._register, turn, yes))
        series = self._register(turn, [])
        journal.instances.settle([series], now, "association released")
        (due,) = self._time("sweep: series that are due", partial(journal.instances.due, time.time()))
        self._time("complete a series, queue its job", partial(journal.instances.complete, due, yes, time.time()))
        for _ in range(2):
            job = self._time("claim a job", partial(journal.jobs.claim, _OWNER, time.time(), 60.0))
            result = ResultRow("sr", "1.2", f"{_UID}.{turn}.{job.job_id}", f"{_UID}.3", "1.2", "results/1", 2000, "")
            self._time(
                "end a job, queue a delivery",
                partial(
                    journal.jobs.succeed,
                    job,
                    _OWNER,
                    time.time(),
                    result_json="{}",
                    results=[result],
                    destinations={DESTINATION: ["sr"]},
                    stages={"load": 0.1, "infer": 0.1, "write": 0.1},
                ),
            )
            (delivery,) = self._time("claim a delivery", partial(journal.deliveries.claim, DESTINATION, time.time(), 1))
            answered = [Answered(delivery, time.time(), 0)]
            self._time("end a delivery", partial(journal.deliveries.delivered, answered))
        for what, question in self._questions(now).items():
            self._time(what, question)

    def _questions(self, now: float) -> Mapping[str, Callable[[], object]]:
        journal = self._journal
        return {
            "next series due": journal.instances.next_due_at,
            "next job available": journal.jobs.next_available_at,
            "next delivery available": partial(journal.deliveries.next_available_at, DESTINATION),
            "leases extended": partial(journal.jobs.extend, _OWNER, now + 60),
            "leases that ran out": partial(journal.jobs.recover_expired, now, 3),
            "series to ask the PACS about": partial(journal.expectations.quiet, now - 3600, now),
            "metrics scraped": lambda: list(self._collector.collect()),
            "status": lambda: status_of(journal, self._spool, self._settings, self.layout),
        }

    def _register(self, turn: int, assessments: list[Assessment]) -> int:
        self._images += 1
        return self._journal.instances.register(
            ReceivedInstance(
                study_instance_uid=f"{_UID}.1.{turn}",
                series_instance_uid=f"{_UID}.2.{turn}",
                sop_instance_uid=f"{_UID}.3.{turn}.{self._images}",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                frames=1,
                attributes={"Modality": "CT"},
                path=f"instances/{_UID}.1.{turn}/{_UID}.2.{turn}/{_UID}.3.{turn}.{self._images}.dcm",
                bytes=527000,
                sha256="0" * 64,
                source="dicom",
                received_at=time.time(),
            ),
            assessments,
            stable_age_s=_STABLE_AGE_S,
        ).series_id

    def _time(self, what: str, action: Callable[[], T]) -> T:
        started = time.perf_counter()
        done = action()
        self.sample.setdefault(what, []).append((time.perf_counter() - started) * 1000)
        return done


class _Node:
    """The receiver role in a process of its own, with no models."""

    def __init__(self, config: Path, layout: StateLayout, stack: ExitStack) -> None:
        self._port = free_port()
        (config.parent / "engines").mkdir(exist_ok=True)
        settings = {
            "dicom": {"host": "127.0.0.1", "port": self._port},
            "models": {"folder": str(config.parent / "engines")},
            "storage": {"min_free_bytes": 0},
            "assembly": {"stable_age_s": _STABLE_AGE_S},
            "logging": {"level": "WARNING"},
        }
        config.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "appliance", "role", "receiver", "-c", str(config)]
        running = subprocess.Popen([*command, "--state-dir", str(layout.root)])
        stack.callback(running.wait, 10)
        stack.callback(running.terminate)
        wait_for(lambda: (layout.run / "receiver.ready").exists(), 30, what="the receiver to be ready")
        self._process = psutil.Process(running.pid)
        self._seconds: list[float] = []
        self._cpu: list[float] = []

    def receive(self, paths: list[Path], *, keep: bool) -> None:
        """Let dcmtk's ``storescu`` send on one association."""
        before, started = self._process.cpu_times(), time.monotonic()
        command = ["storescu", "-R", "-aec", "APPLIANCE", "127.0.0.1", str(self._port), *map(str, paths)]
        subprocess.run(command, check=True, timeout=300)
        seconds, after = time.monotonic() - started, self._process.cpu_times()
        if keep:
            self._seconds.append(seconds)
            self._cpu.append(after.user + after.system - before.user - before.system)

    def figures(self, count: int) -> dict[str, float]:
        """Medians of the rounds."""
        return {
            "images_per_s": round(count / statistics.median(self._seconds), 1),
            "least": round(count / max(self._seconds), 1),
            "most": round(count / min(self._seconds), 1),
            "cpu_ms_each": round(statistics.median(self._cpu) / count * 1000, 2),
        }


def _medians(sample: Sample) -> dict[str, float]:
    return {what: round(statistics.median(times), 3) for what, times in sample.items()}


def _start(root: Path, filling: Filling, template: bytes, rounds: int) -> dict[str, dict[str, float]]:
    (root / "engines").mkdir(exist_ok=True)
    settings = {
        "logging": {"level": "WARNING"},
        "models": {"folder": str(root / "engines")},
        "assembly": {"stable_age_s": _STABLE_AGE_S},
    }
    daemons = {which: Daemon(root / f"{which}-start", settings=settings) for which in ("empty", "full")}
    fill_journal(daemons["full"].layout.journal, filling)
    fill_spool(daemons["full"].layout, _FILES, _LEFT, template)
    return measure_start(daemons, rounds + 1)


def _show(figures: Mapping[str, Mapping[str, Mapping[str, float]]], rounds: int) -> None:
    operations, reception, start = figures["operations_ms"], figures["reception"], figures["start_s"]
    print(f"\n{'ms, medians':36}{'empty':>10}{'full':>10}{'ratio':>8}")
    for what, empty in operations["empty"].items():
        full = operations["full"][what]
        print(f"{what:36}{empty:10.3f}{full:10.3f}{full / empty:8.2f}")
    print(f"\n{f'reception, {rounds} rounds':36}{'images/s':>10}{'least–most':>16}{'CPU ms each':>13}")
    for which, row in reception.items():
        span = f"{row['least']:.0f}–{row['most']:.0f}"
        print(f"{which:36}{row['images_per_s']:10.0f}{span:>16}{row['cpu_ms_each']:13.2f}")
    print(f"\n{'start, s until all roles serve':36}{'median':>10}{'first':>10}")
    for which, row in start.items():
        print(f"{which:36}{row['median']:10.2f}{row['first']:10.2f}")
