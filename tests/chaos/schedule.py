"""Which faults come when: drawn from a seed, one stream for each thing that fails, so that they meet in every way."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from tests.chaos.machine import ROLES, Machine
from tests.chaos.proxy import Mode, Proxy

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault: ``begin`` it, after ``duration_s`` (least, most) ``end`` it."""

    name: str
    weight: float
    begin: Callable[[], object]
    duration_s: tuple[float, float] = (0.0, 0.0)
    end: Callable[[], object] = lambda: None


class Stream:
    """Faults one after the other, in a thread of their own, with pauses in between.

    Parameters
    ----------
    pause_s
        Least and most time from the end of a fault to the next one.
    note
        Called with the name of each fault at its begin.
    """

    def __init__(
        self,
        name: str,
        faults: Sequence[Fault],
        pause_s: tuple[float, float],
        rng: random.Random,
        note: Callable[[str], None],
    ) -> None:
        self._faults, self._pause_s, self._random, self._note = faults, pause_s, rng, note
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"faults-{name}", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the fault that is on, and begin no other; raises what made the stream end by itself."""
        self._stopping.set()
        self._thread.join(120)
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._random.uniform(*self._pause_s)):
                fault = self._random.choices(self._faults, [fault.weight for fault in self._faults])[0]
                self._note(fault.name)
                fault.begin()
                try:
                    self._stopping.wait(self._random.uniform(*fault.duration_s))
                finally:
                    fault.end()
        except BaseException as error:  # noqa: BLE001 - top of a thread; it is raised again by stop
            self.failure = error


def streams(
    machine: Machine, pacs: Proxy, network: Proxy, seed: int, *, kill_every_s: float, note: Callable[[str], None]
) -> list[Stream]:
    """All streams of a campaign; ``kill_every_s`` is the mean time between two kills."""

    def stream(name: str, faults: Sequence[Fault], least_s: float, most_s: float) -> Stream:
        return Stream(name, faults, (least_s, most_s), random.Random(f"{seed} {name}"), note)

    kills, seconds = _kills(machine, random.Random(f"{seed} power"), note), kill_every_s
    return [
        stream("kills", kills, 0.2 * seconds, 1.8 * seconds),
        stream("suspensions", _suspensions(machine, random.Random(f"{seed} suspended")), 3, 15),
        stream("disk", _disk(machine, random.Random(f"{seed} failures")), 1, 8),
        stream("clock", _clock(machine), 2, 10),
        stream("PACS", [_proxied("PACS", pacs, mode, 1.0) for mode in Mode if mode is not Mode.PASS], 0.5, 6),
        stream("network", [_proxied("network", network, mode, 1.0) for mode in Mode if mode is not Mode.PASS], 1, 8),
        stream("journal", _journal(machine), 3, 12),
    ]


def _kills(machine: Machine, rng: random.Random, note: Callable[[str], None]) -> list[Fault]:
    def killer(role: str) -> Callable[[], object]:
        def kill() -> None:
            # One that waits to be started again cannot be killed: another one is.
            others = [other for other in ROLES if other != role]
            if not any(machine.kill(each) for each in (role, *rng.sample(others, len(others)))):
                note("no role was running")

        return kill

    def power() -> None:
        note(f"power lost: {machine.lose_power(rng)}")

    return [
        *(Fault(f"kill {role}", weight, killer(role)) for role, weight in zip(ROLES, (4, 4, 3, 1), strict=True)),
        Fault("kill supervisor", 0.6, machine.kill_supervisor),
        Fault("power loss", 0.6, power),
    ]


def _suspensions(machine: Machine, rng: random.Random) -> list[Fault]:
    suspended: list[int] = []

    def suspend() -> None:
        pid = machine.suspend(rng.choice(ROLES))
        if pid is not None:
            suspended.append(pid)

    def go_on() -> None:
        while suspended:
            machine.go_on(suspended.pop())

    return [Fault("role suspended", 1, suspend, (0.3, 4), go_on)]


def _disk(machine: Machine, rng: random.Random) -> list[Fault]:
    faults = machine.faults
    return [
        Fault("disk full", 3, lambda: faults.disk_full(True), (0.3, 3), lambda: faults.disk_full(False)),
        Fault("disk below the water mark", 1, lambda: faults.free_bytes(0), (0.3, 3), lambda: faults.free_bytes(None)),
        Fault("disk slow", 2, lambda: faults.slow_disk(0.2, 0.005), (0.5, 4), lambda: faults.slow_disk(0, 0)),
        Fault("fsync fails", 3, lambda: faults.fail_fsyncs(rng.randint(1, 3)), (0.2, 2), lambda: faults.fail_fsyncs(0)),
    ]


def _clock(machine: Machine) -> list[Fault]:
    clock = machine.faults.clock
    steps = {"a second": 1.0, "two hours": 2 * HOUR_S, "a day": 24 * HOUR_S}
    return [
        Fault(f"clock {words} {way}", 1, lambda offset=sign * step: clock(offset), (0.5, 6), lambda: clock(0))  # type: ignore[misc]
        for words, step in steps.items()
        for way, sign in (("fast", 1), ("slow", -1))
    ]


def _proxied(whose: str, proxy: Proxy, mode: Mode, weight: float) -> Fault:
    return Fault(f"{whose}: {mode}", weight, lambda: proxy.become(mode), (0.3, 4), lambda: proxy.become(Mode.PASS))


def _journal(machine: Machine) -> list[Fault]:
    """Somebody else, a backup say, holds the write lock."""
    held: list[sqlite3.Connection] = []

    def hold() -> None:
        # Its clock, disk and life are no part of the campaign: it is another program.
        connection = sqlite3.connect(machine.daemon.layout.journal, isolation_level=None, check_same_thread=False)
        held.append(connection)
        try:
            connection.execute("PRAGMA busy_timeout = 2000")
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            pass  # somebody writes without end, or the file is just being taken away: another time

    def let_go() -> None:
        while held:
            with closing(held.pop()) as connection:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    return [
        Fault("journal locked", 6, hold, (0.3, 4), let_go),
        Fault("journal locked for longer than its patience", 0.3, hold, (32, 36), let_go),
    ]


class Notes:
    """Counts what happened, and keeps when."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.lines: list[str] = []
        self._began = time.monotonic()

    def __call__(self, what: str) -> None:
        self.counts[what.partition(":")[0] if what.startswith("power lost") else what] += 1
        self.lines.append(f"{time.monotonic() - self._began:8.2f} {what}")
