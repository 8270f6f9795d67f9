"""A clock on which days pass in seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from appliance.delivery.clock import Clock
from appliance.journal.hints import HintSocket


class FastClock(Clock):
    """Stands still while anybody works, and leaps where anybody waits.

    Parameters
    ----------
    start
        What time it is at first, in seconds since 1970.
    step_s
        Shorter waits take this long: whoever waits oversleeps.
    on_leap
        Called with the new time after each leap, in the thread that waits.
    """

    def __init__(self, start: float, *, step_s: float, on_leap: Callable[[float], None]) -> None:
        self._now, self._step_s, self._on_leap = start, step_s, on_leap
        self.stopped = threading.Event()

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def rest(self, stopping: threading.Event, timeout_s: float) -> None:
        self._leap(timeout_s)

    def listen(self, ear: HintSocket, timeout_s: float) -> None:
        self._leap(timeout_s)

    def _leap(self, timeout_s: float) -> None:
        if self.stopped.is_set():
            time.sleep(0.01)  # it has run its time; the sender only waits to be stopped
            return
        self._now += max(timeout_s, self._step_s)
        self._on_leap(self._now)
