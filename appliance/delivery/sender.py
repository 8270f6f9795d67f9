"""The sender: empties the outbox of one destination, in a thread of its own, so that none waits for another."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from pathlib import Path

from appliance.config import settings
from appliance.delivery.base import Destination
from appliance.delivery.clock import Clock
from appliance.delivery.destinations import make_destination
from appliance.delivery.outgoing import Outgoing
from appliance.delivery.recorder import Recorder
from appliance.delivery.retry import is_given_up, wait_s
from appliance.errors import DeliveryRefused, DeliveryRetry, DestinationUnreachable
from appliance.journal.hints import HintSocket, send_hint
from appliance.journal.journal import Journal
from appliance.journal.records import Answered, ClaimedDelivery
from appliance.observability.guarded_thread import GuardedThread
from appliance.observability.metrics import Metrics
from appliance.spool.spool import Spool

_log = logging.getLogger(__name__)

_BATCH = 32
"""Objects claimed with one commit: enough that its cost does not count, few enough to return at a stop."""

_POLL_S = 1.0
"""Hints may be lost; so the journal is looked into this often."""

_GATHER_S = 0.1
"""Images come in streams. After those that were there have gone out, some more may come together before they are
claimed: one by one they would cost the journal, and so reception, a commit each. A result's hint ends the wait."""

_IDLE_S = 5.0
"""The objects of one study come within a second of each other; archives drop associations that are silent for 30 s
or so, and have only so many to give."""

_GRACE_S = 2.0
"""At a stop, the object under way may be finished for this long; then its connection is cut, and it is returned."""


class Sender:
    """Delivers to one destination from ``start`` to ``stop``.

    An object that fails on its own account goes to the back by its own wait, and the destination rests for a
    moment. A destination that is out of reach rests longer and longer, then is tried with one object at a time; the
    others wait without losing attempts, in their order.

    Parameters
    ----------
    destination
        Its settings.
    ae_title
        How the appliance calls itself.
    recorder
        Started before, and stopped after this sender.
    run_dir
        The folder of the wake-up sockets; this sender listens as ``sender-<name>``.
    on_fatal
        Called when the sender cannot go on and the role has to end.
    clock
        The machine's, unless a test has its own.
    """

    def __init__(
        self,
        destination: settings.Destination,
        *,
        ae_title: str,
        journal: Journal,
        spool: Spool,
        recorder: Recorder,
        metrics: Metrics,
        run_dir: Path,
        on_fatal: Callable[[], None],
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._name = destination.name
        self._retry = destination.retry
        self._destination: Destination = make_destination(destination, ae_title)
        self._deliveries = journal.deliveries
        self._spool = spool
        self._recorder = recorder
        self._metrics = metrics
        self._run_dir = run_dir
        self._stopping = threading.Event()
        self._ear: HintSocket | None = None
        self._thread = GuardedThread(f"sender-{self._name}", self._run, on_fatal)
        self._failures = 0
        self._rest_until = 0.0  # monotonic
        self._last_used: float | None = None  # monotonic, of what the destination keeps open

    def start(self) -> None:
        """Queue again what an earlier life left in flight, and begin. Only once."""
        returned = self._deliveries.recover(self._name)
        if returned:
            _log.warning("%d deliveries to %s were in flight at the end of the last run", returned, self._name)
        self._ear = HintSocket(self._run_dir, f"sender-{self._name}")
        self._thread.start()

    def stop(self) -> None:
        """End within a few seconds: the object under way is finished or returned, the others are returned."""
        if self._ear is None:
            return  # never started
        self._stopping.set()
        send_hint(self._run_dir, f"sender-{self._name}")
        self._thread.join(_GRACE_S)
        if self._thread.is_alive():
            self._destination.cut()
            self._thread.join(_GRACE_S)
        self._ear.close()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._round()
        except Exception:
            # A connection that stop() cut fails in the middle of whatever it was at.
            if not self._stopping.is_set():
                raise
        finally:
            self._destination.close()

    def _round(self) -> None:
        """Wait for something to do, or do it."""
        self._close_if_idle()
        rest_s = self._rest_until - self._clock.monotonic()
        if rest_s > 0:
            self._clock.rest(self._stopping, min(rest_s, _POLL_S))
            return
        due_at = self._deliveries.next_available_at(self._name)
        now = self._clock.now()
        if due_at is not None and due_at <= now:
            # While it is not known to be well, one object is the probe.
            batch = self._deliveries.claim(self._name, now, 1 if self._failures else _BATCH)
            self._deliver(batch)
            if self._ear is not None and len(batch) < _BATCH and all(delivery.job_id is None for delivery in batch):
                self._clock.listen(self._ear, _GATHER_S)
        elif due_at is not None and due_at > now + self._retry.longest_s + _POLL_S:
            # No wait is that long: the clock was set back since. What waits must not wait for it to catch up.
            self._deliveries.bring_forward(self._name, now)
        elif self._ear is not None:
            self._clock.listen(self._ear, _POLL_S if due_at is None else min(_POLL_S, due_at - now))

    def _deliver(self, batch: list[ClaimedDelivery]) -> None:
        """Send a batch in its order; after the first that does not get through, the rest goes back untried."""
        self._destination.announce([self._outgoing(delivery) for delivery in batch])
        for index, delivery in enumerate(batch):
            if self._stopping.is_set():
                self._give_back(batch[index:], None)
                return
            try:
                status = self._destination.send(self._outgoing(delivery))
            except DeliveryRefused as error:
                if error.status is not None:
                    self._failures = 0  # it answers
                self._failed(delivery, error)
            except DeliveryRetry as error:
                if self._stopping.is_set():
                    self._give_back(batch[index:], None)  # it was cut short by stop
                else:
                    self._postponed(delivery, error)
                    self._give_back(batch[index + 1 :], error)
                return
            else:
                self._failures = 0
                self._recorder.record(Answered(delivery, self._clock.now(), status))
            self._last_used = self._clock.monotonic()

    def _failed(self, delivery: ClaimedDelivery, error: DeliveryRefused | DeliveryRetry, prefix: str = "") -> None:
        self._deliveries.fail(delivery.delivery_id, self._clock.now(), error.status, f"{prefix}{error}")
        self._metrics.deliveries.labels(self._name, "failed").inc()
        _log.error("delivery of %s failed: %s%s", delivery, prefix, error)

    def _postponed(self, delivery: ClaimedDelivery, error: DeliveryRetry) -> None:
        """One that was tried in vain: later again, or never. The destination rests meanwhile."""
        self._failures += 1
        rest_s = wait_s(self._retry, self._failures, random.random())
        self._rest_until = self._clock.monotonic() + rest_s
        now = self._clock.now()
        if is_given_up(self._retry, delivery.created_at, now):
            self._failed(delivery, error, self._given_up())
            return
        if isinstance(error, DestinationUnreachable):
            # It keeps its place, before all that came after it; the rest of the destination is what delays it.
            available_at = delivery.created_at
        else:
            available_at = now + wait_s(self._retry, delivery.attempt, random.random())
        self._deliveries.postpone(delivery.delivery_id, available_at, error.status, str(error))
        self._metrics.deliveries.labels(self._name, "postponed").inc()
        _log.warning("%s waits, next try in %.0f s: %s", delivery, rest_s, error)

    def _give_back(self, untried: list[ClaimedDelivery], error: DeliveryRetry | None) -> None:
        """Return what was claimed and not tried, to its place, with no attempt counted."""
        now = self._clock.now()
        for delivery in untried:
            if error is not None and is_given_up(self._retry, delivery.created_at, now):
                self._failed(delivery, error, self._given_up())
            else:
                message = None if error is None else str(error)
                self._deliveries.postpone(delivery.delivery_id, delivery.created_at, None, message, counted=False)

    def _given_up(self) -> str:
        return f"given up after {self._retry.give_up_after_s / 3600:g} h; "

    def _close_if_idle(self) -> None:
        if self._last_used is not None and self._clock.monotonic() - self._last_used > _IDLE_S:
            self._destination.close()
            self._last_used = None

    def _outgoing(self, delivery: ClaimedDelivery) -> Outgoing:
        return Outgoing(
            path=self._spool.absolute(delivery.path),
            kind=delivery.kind,
            sop_class_uid=delivery.sop_class_uid,
            sop_instance_uid=delivery.sop_instance_uid,
            transfer_syntax_uid=delivery.transfer_syntax_uid,
            bytes=delivery.bytes,
            sha256=delivery.sha256,
            sums_data_set_only=delivery.job_id is None,
        )
