"""The recorder: notes in the journal what destinations have answered, while the next objects are on their way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from appliance.delivery.status import SUCCESS, meaning
from appliance.journal.journal import Journal
from appliance.journal.records import Answered
from appliance.observability.guarded_thread import GuardedThread
from appliance.observability.metrics import Metrics

_log = logging.getLogger(__name__)

_BACKLOG = 32
"""Answers that may wait for their commit. What waits would be sent again after a kill, so there is an end to it."""

_PACE_S = 0.002
"""Commits are at least this far apart: the first answer after a pause is committed at once, but of a quick stream of
small objects each would cost more than its way to the archive."""

_FLUSH_S = 0.2
"""How long a commit may wait for the disk: a power failure makes destinations see the objects of this time again."""


class Recorder:
    """One thread for all destinations: whatever was answered during one commit shares the next.

    A commit follows an answer at once, so that a process that is killed sends nothing again but what was answered in
    the two milliseconds before. The disk follows a little later, as nothing is lost by an object that is sent again.

    Parameters
    ----------
    on_fatal
        Called when the journal fails and the role has to end.
    """

    def __init__(self, journal: Journal, metrics: Metrics, *, on_fatal: Callable[[], None]) -> None:
        self._journal = journal
        self._metrics = metrics
        self._condition = threading.Condition()
        self._waiting: list[Answered] = []
        self._stopping = self._ended = False
        self._committed_at = 0.0  # by time.monotonic
        self._unflushed_since: float | None = None  # by time.monotonic
        self._thread = GuardedThread("recorder", self._run, on_fatal)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Record what is left, and end; the senders have stopped before."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._thread.end(timeout_s)

    def record(self, answered: Answered) -> None:
        """Take over an answer, as soon as there is room for it.

        Raises
        ------
        RuntimeError
            The recorder has ended: nothing more may be sent, because nothing would remember it.
        """
        with self._condition:
            self._condition.wait_for(lambda: len(self._waiting) < _BACKLOG or self._ended)
            if self._ended:
                raise RuntimeError("the recorder has ended")
            self._waiting.append(answered)
            self._condition.notify_all()

    def _run(self) -> None:
        try:
            while True:
                answered = self._next()
                if answered:
                    self._journal.deliveries.delivered(answered)
                    self._committed_at = time.monotonic()
                    self._unflushed_since = self._unflushed_since or time.monotonic()
                    for answer in answered:
                        self._tell(answer)
                if self._flush_in_s() == 0 or not answered:
                    self._journal.flush()
                    self._unflushed_since = None
                    if not answered and self._stopping:
                        return
        finally:
            with self._condition:
                self._ended = True
                self._condition.notify_all()

    def _next(self) -> list[Answered]:
        """Wait for answers; none of them means that it is time for the disk, or to end."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._stopping, self._flush_in_s())
        time.sleep(max(0.0, self._committed_at + _PACE_S - time.monotonic()))
        with self._condition:
            answered, self._waiting = self._waiting, []
            self._condition.notify_all()
            return answered

    def _flush_in_s(self) -> float | None:
        if self._unflushed_since is None:
            return None
        return max(0.0, self._unflushed_since + _FLUSH_S - time.monotonic())

    def _tell(self, answer: Answered) -> None:
        delivery = answer.delivery
        self._metrics.deliveries.labels(delivery.destination, "delivered").inc()
        self._metrics.deliver_seconds.labels(delivery.destination, delivery.kind).observe(
            max(0.0, answer.at - delivery.created_at)
        )
        if delivery.model is not None:
            self._metrics.total_seconds.labels(delivery.model, delivery.destination, delivery.kind).observe(
                max(0.0, answer.at - delivery.last_received_at)
            )
        remark = "" if answer.status in (None, SUCCESS) else f" with status {meaning(answer.status)}"
        # Images come by the thousand.
        level = logging.DEBUG if delivery.model is None and not remark else logging.INFO
        _log.log(level, "delivered %s to %s%s", delivery, delivery.destination, remark)
