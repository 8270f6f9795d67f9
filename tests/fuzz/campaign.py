"""A campaign: the cases of a target in a process of their own, with a watchman who sees crashes, hangs and memory."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from tests.fuzz.process import load_target
from tests.fuzz.slot import Slot

TARGETS: Final = ("dataset", "pixels", "association", "dropfolder")
_LOOK_S: Final = 0.05
_START_S: Final = 300.0
_END_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a campaign.

    Attributes
    ----------
    cases
        How many were run, those that failed included.
    crashes, hangs
        How many raised what they must not, ended the process or took too much memory; and how many took too long.
    peak_mib
        Highest memory of the process, above what it had at its start, in MiB.
    slowest_ms
        Time of the slowest case that came back.
    """

    target: str
    cases: int
    seconds: float
    crashes: int
    hangs: int
    peak_mib: float
    slowest_ms: float
    slowest: int


class Campaign:
    """Runs cases ``0`` to ``cases``; inputs that failed are kept below ``defects`` with a report each."""

    def __init__(self, target: str, *, cases: int, seed: int, defects: Path, guided: bool = False) -> None:
        self._name = target
        self._kind = load_target(target)
        self._cases = cases
        self._seed = seed
        self._defects = defects
        self._guided = guided
        self._crashes = self._hangs = 0
        self._peak = self._slowest_s = 0.0
        self._slowest = 0

    def run(self) -> Result:
        """Run all of it; a process that ends before its time is started again behind the case that ended it."""
        started = time.monotonic()
        self._defects.mkdir(parents=True, exist_ok=True)
        first = 0
        while first < self._cases:
            with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_memory_folder()) as name:
                first = self._run_process(Path(name), first)
        return Result(
            self._name,
            self._cases,
            time.monotonic() - started,
            self._crashes,
            self._hangs,
            self._peak,
            self._slowest_s * 1000,
            self._slowest,
        )

    def _run_process(self, folder: Path, first: int) -> int:
        """Run cases until the process ends; return the number of the next one."""
        slot = Slot(folder / "slot")
        command = [sys.executable, "-m", "tests.fuzz.process", self._name, str(folder), f"--seed={self._seed}"]
        command += [f"--first={first}", f"--last={self._cases}", *(["--guided"] if self._guided else [])]
        with (folder / "errors").open("wb") as errors:
            process = subprocess.Popen(command, stdout=errors, stderr=errors, cwd=Path(__file__).parents[2])
        try:
            why = self._watch(process, slot)
        finally:
            process.kill()
            process.wait()
        for report in folder.glob("*.crash"):
            self._crashes += 1
            for path in (report, report.with_suffix(".bin")):
                shutil.move(path, self._defects / path.name)
        seconds, number = slot.slowest
        if seconds > self._slowest_s:
            self._slowest_s, self._slowest = seconds, number
        if not why:
            return self._cases
        if not slot.done and not slot.began:
            raise RuntimeError(f"the cases cannot be run: {(folder / 'errors').read_text(errors='replace')[-4000:]}")
        (self._defects / f"{self._name}-{self._seed}-{slot.number}.bin").write_bytes(slot.case)
        text = (folder / "errors").read_text(errors="replace")
        (self._defects / f"{self._name}-{self._seed}-{slot.number}.{why}").write_text(text[-100_000:])
        if why == "hang":
            self._hangs += 1
        else:
            self._crashes += 1
        return slot.number + 1

    def _watch(self, process: subprocess.Popen[bytes], slot: Slot) -> str:
        """Wait for the end; return what was wrong with it: ``hang``, ``memory``, ``death``, or nothing."""
        program = psutil.Process(process.pid)
        at_start = 0
        deadline = time.monotonic() + _START_S
        while True:
            try:
                code = process.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                pass
            else:
                return "" if code == 0 and slot.done else "death"
            now = time.monotonic()
            if not slot.began and not slot.done:
                if now > deadline:
                    return "hang"
                continue
            try:
                memory = program.memory_info().rss
            except psutil.Error:
                continue
            at_start = at_start or memory
            above = (memory - at_start) / 2**20
            self._peak = max(self._peak, above)
            if above > self._kind.memory_mib:
                return "memory"
            began = slot.began
            if began and now - began > self._kind.hang_s:
                process.send_signal(signal.SIGUSR1)  # its threads tell where they are
                time.sleep(_LOOK_S)
                return "hang"
            if not began and slot.number >= self._cases - 1:
                deadline = max(deadline, now)
                if now > deadline + _END_S:
                    return "hang"


def _memory_folder() -> Path | None:
    folder = Path("/dev/shm")
    return folder if folder.is_dir() else None
