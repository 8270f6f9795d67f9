"""The keeper: deletes by age and for space, a series at a time, oldest study first."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from appliance.config.settings import Settings
from appliance.journal.journal import Journal
from appliance.journal.retention import HOLDS, Deletion, Limits
from appliance.observability.guarded_thread import GuardedThread
from appliance.observability.metrics import Metrics
from appliance.retention.outlook import room_days
from appliance.retention.removal import Removal
from appliance.spool.spool import Spool

_log = logging.getLogger(__name__)

_LOOK_S = 2.0
"""How often free space is looked at: the fastest sender takes longer to get from the target to the water mark."""
_REST = 20
"""After a search that found nothing to delete it rests so many times as long as it took: a twentieth of a core."""
_AGE_EVERY_S = 60.0
_PAUSE_S = 0.02
"""Between two series: whoever waits for the journal's lock, a receiver above all, has it in between."""
_UNUSED_SHARE = 0.1
"""Of the journal's pages: fewer are left for new rows."""
_PAGES_AT_ONCE = 100
_DAY_S = 86400.0


class Keeper:
    """One thread that keeps the state folder from filling up.

    Parameters
    ----------
    on_fatal
        Called when it cannot go on and the role has to end.
    """

    def __init__(
        self, settings: Settings, journal: Journal, spool: Spool, metrics: Metrics, *, on_fatal: Callable[[], None]
    ) -> None:
        self._retention = settings.retention
        self._target_free_bytes = settings.retention_target_free_bytes
        self._journal = journal
        self._spool = spool
        self._removal = Removal(journal, spool)
        self._stop = threading.Event()
        self._thread = GuardedThread("keeper", self._run, on_fatal)
        self._metrics = metrics
        self._short = False
        self._search_at = 0.0  # by time.monotonic

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End after the series that is being deleted."""
        self._stop.set()
        self._thread.end(timeout_s)

    def _run(self) -> None:
        taken_up, age_at = False, 0.0
        while not self._stop.is_set():
            try:
                if not taken_up:
                    self._removal.take_up()
                    taken_up = True
                if time.monotonic() >= age_at:
                    self.delete_old(time.time())
                    self._shrink()
                    self._metrics.room_days.set(room_days(self._journal, self._spool, self._target_free_bytes))
                    age_at = time.monotonic() + _AGE_EVERY_S
                self.make_room(time.time())
            except OSError as error:
                # A disk that is full or fails is worse without a console, which says so, than without the keeper.
                _log.error("cannot delete what is old: %s. It is tried again", error.strerror)
                taken_up = False
                self._stop.wait(_AGE_EVERY_S)
            self._stop.wait(_LOOK_S)

    def delete_old(self, now: float) -> None:
        """Delete what is older than ``max_age_days``, and nothing that is still needed."""
        if self._retention.max_age_days is None:
            return
        limits = self._limits(now, now - self._retention.max_age_days * _DAY_S)
        held: Counter[str] = Counter()
        for study_id in self._journal.retention.studies(limits.before):
            if (hold := self._journal.retention.hold(study_id, limits)) is not None:
                held[hold] += 1
                continue
            for _ in self._delete(study_id, limits, "age", now):
                if self._stop.is_set():
                    return
        for hold in HOLDS:
            self._metrics.held_studies.labels(hold).set(held[hold])
        while not self._stop.is_set() and self._delete_rejection(limits.before, "age", now):
            self._stop.wait(_PAUSE_S)

    def make_room(self, now: float) -> None:
        """Delete the oldest studies until as much space is free as is wanted."""
        if self._spool.free_bytes() >= self._target_free_bytes:
            self._short = False
            return
        if self._short and time.monotonic() < self._search_at:
            return  # all was found to be needed a moment ago, and that may be tens of thousands of studies
        limits, began_at = self._limits(now, now - self._retention.min_age_s), time.monotonic()
        for study_id in self._journal.retention.studies(limits.before):
            for _ in self._delete(study_id, limits, "space", now):
                if self._stop.is_set() or self._spool.free_bytes() >= self._target_free_bytes:
                    return
        while self._delete_rejection(limits.before, "space", now):
            if self._stop.wait(_PAUSE_S) or self._spool.free_bytes() >= self._target_free_bytes:
                return
        ended_at = time.monotonic()
        self._search_at = ended_at + _REST * (ended_at - began_at)
        if not self._short:
            self._short = True
            _log.warning(
                "the disk has %d MiB free, less than retention wants (%d MiB), and nothing more may be deleted: "
                "free space, or see appliance status for what waits",
                self._spool.free_bytes() >> 20,
                self._target_free_bytes >> 20,
            )

    def _limits(self, now: float, before: float) -> Limits:
        # Never what is still on its way: images and results of the last minutes.
        newest = now - self._retention.min_age_s
        return Limits(min(before, newest), now - self._retention.keep_failed_days * _DAY_S)

    def _delete(self, study_id: int, limits: Limits, reason: str, now: float) -> Iterator[Deletion]:
        """Delete a study, series by series; what comes out are the series that are gone with their files."""
        while True:
            deletion = self._journal.retention.delete_series(study_id, limits, reason=reason, now=now)
            if deletion is None:
                return
            self._removal.remove_all()
            _log.info(
                "deleted series %d for its %s: %d instance(s), %d result(s), %d byte(s)",
                deletion.row_id,
                deletion.reason,
                deletion.instances,
                deletion.results,
                deletion.bytes,
            )
            yield deletion
            if self._stop.wait(_PAUSE_S) or deletion.study_gone:
                return

    def _delete_rejection(self, before: float, reason: str, now: float) -> bool:
        deletion = self._journal.retention.delete_rejection(before, reason=reason, now=now)
        self._removal.remove_all()
        return deletion is not None

    def _shrink(self) -> None:
        unused, pages = self._journal.retention.pages()
        while unused > _UNUSED_SHARE * pages and not self._stop.wait(_PAUSE_S):
            self._journal.retention.shrink(_PAGES_AT_ONCE)
            unused, pages = self._journal.retention.pages()
