"""A time limit for runs of a library that has none of its own, but can be asked to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TimeLimit:
    """Breaks off what takes too long; one thread for life, and one run at a time.

    A thread for each run would cost a fast network a fiftieth of its time. For the same reason the thread is not woken
    by each run: it sleeps until the limit of an earlier one, and only then looks at which limit counts now.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._break_off: Callable[[], None] | None = None
        self._deadline = 0.0  # of what runs now, by time.monotonic
        self._wakes_at: float | None = None  # None: only when told to
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="time limit", daemon=True)
        self._thread.start()

    @contextmanager
    def running(self, limit_s: float, break_off: Callable[[], None]) -> Iterator[None]:
        """Call ``break_off``, in another thread, when the body has not ended after ``limit_s`` seconds."""
        with self._changed:
            self._deadline, self._break_off = time.monotonic() + limit_s, break_off
            if self._wakes_at is None or self._deadline < self._wakes_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._break_off = None

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._break_off is not None and now >= self._deadline:
                    self._break_off()
                    self._break_off = None
                self._wakes_at = None if self._break_off is None else self._deadline
                self._changed.wait(None if self._wakes_at is None else max(0.0, self._wakes_at - now))
