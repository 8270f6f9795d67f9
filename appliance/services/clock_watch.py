"""Noticing that the clock was set back: what is due by the journal must not wait for the same hour again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from appliance.config.settings import Settings
from appliance.journal.waits import LongestWaits, Waits
from appliance.observability.guarded_thread import GuardedThread

_log = logging.getLogger(__name__)

_INTERVAL_S = 5.0
"""How often the journal is looked at. Not at steps of the clock only: one may come while no role runs, and another role
may write what it had read off the clock before the step."""


class ClockWatch:
    """One thread that shortens waits which are longer than any can be."""

    def __init__(self, waits: Waits, settings: Settings, *, on_fatal: Callable[[], None]) -> None:
        self._waits = waits
        self._longest = longest_waits(settings)
        self._stop = threading.Event()
        self._thread = GuardedThread("clock-watch", self._run, on_fatal)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.end(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            found = self._waits.shorten(time.time(), self._longest)
            if found:
                _log.warning(
                    "the clock was set back: %d row(s) of the journal that were due too far ahead wait no more", found
                )
            self._stop.wait(_INTERVAL_S)


def longest_waits(settings: Settings) -> LongestWaits:
    """How far ahead anything can be due by these settings."""
    return LongestWaits(
        series=max(settings.assembly.stable_age_s, settings.assembly.settle_s),
        job=settings.worker.retry_s,
        lease=settings.worker.lease_s,
        delivery=max((destination.retry.longest_s for destination in settings.destinations), default=0.0),
        commitment=max(settings.commitment.wait_s, settings.commitment.timeout_s, settings.commitment.retry.longest_s),
    )
