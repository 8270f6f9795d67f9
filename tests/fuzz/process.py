"""The process in which the cases of one target run: ``python -m tests.fuzz.process`` by ``campaign``."""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Final

from tests.fuzz.logs import WatchedLogs
from tests.fuzz.slot import Slot
from tests.fuzz.target import Target

_CHECK_EACH: Final = 250


def load_target(name: str) -> type[Target]:
    """The class of the target of this name."""
    found = importlib.import_module(f"tests.fuzz.targets.{name}")
    return next(
        value
        for value in vars(found).values()
        if isinstance(value, type) and issubclass(value, Target) and value.__dict__.get("name") == name
    )


class Runner:
    """Runs cases, notes each in the slot, and keeps what failed in ``defects``."""

    def __init__(self, target: Target, slot: Slot, defects: Path) -> None:
        self._target = target
        self._slot = slot
        self._defects = defects
        self._logs = WatchedLogs()
        self._logs.install()
        self._since_check = 0

    def run(self, number: int, case: bytes) -> None:
        """Run one case."""
        self._slot.begin(number, case, time.monotonic())
        try:
            self._target.run(case)
            self._since_check += 1
            if self._since_check >= _CHECK_EACH:
                self.check()
        except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
            self._keep(case, traceback.format_exc())
        self._slot.end(time.monotonic())

    def check(self) -> None:
        """Let the target and the logs be looked at."""
        self._since_check = 0
        self._target.check()
        self._logs.check()

    def finish(self) -> None:
        """The last look."""
        try:
            self.check()
        except Exception:  # noqa: BLE001 - as above
            self._keep(self._slot.case, traceback.format_exc())

    def _keep(self, case: bytes, report: str) -> None:
        name = f"{self._target.name}-{hashlib.sha256(case).hexdigest()[:12]}"
        (self._defects / f"{name}.bin").write_bytes(case)
        (self._defects / f"{name}.crash").write_text(report)


def main() -> int:
    """Run the cases of numbers ``first`` to ``last`` (excluded), or let coverage guide as many."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--last", type=int, required=True)
    parser.add_argument("--guided", action="store_true")
    arguments = parser.parse_args()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    if arguments.guided:
        from tests.fuzz.guided import run_guided, watch_coverage

        with watch_coverage():
            kind = load_target(arguments.target)
    else:
        kind = load_target(arguments.target)
    work = arguments.folder / "work"
    work.mkdir(exist_ok=True)
    target = kind(work)
    runner = Runner(target, Slot(arguments.folder / "slot"), arguments.folder)
    if arguments.guided:
        run_guided(runner, kind, arguments.folder, arguments.seed, arguments.first, arguments.last)
    else:
        corpus = kind.corpus()
        for number in range(arguments.first, arguments.last):
            runner.run(number, kind.case(arguments.seed, number, corpus))
    runner.finish()
    target.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
