"""Time as a sender sees it: one object, so that days of an archive's moods pass in a test in seconds."""

from __future__ import annotations

import threading
import time

from appliance.journal.hints import HintSocket


class Clock:
    """The machine's clocks, and waiting by them."""

    def now(self) -> float:
        """Seconds since 1970; may jump when somebody sets the clock."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment; never jumps."""
        return time.monotonic()

    def rest(self, stopping: threading.Event, timeout_s: float) -> None:
        """Wait until the time is over or ``stopping`` is set."""
        stopping.wait(timeout_s)

    def listen(self, ear: HintSocket, timeout_s: float) -> None:
        """Wait until the time is over or a hint comes."""
        ear.wait(timeout_s)
