"""The assembler: calls a series complete at the earliest honest sign and asks the models about it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from appliance.domain.states import Scope
from appliance.intake.assessor import Assessor
from appliance.journal.hints import HintSocket, send_hint
from appliance.journal.journal import Journal
from appliance.journal.records import DueSeries
from appliance.observability.guarded_thread import GuardedThread
from appliance.observability.metrics import Metrics

_log = logging.getLogger(__name__)

_POLL_S = 1.0
"""Longest sleep: a stable age that begins while nothing else is due is noticed after this at the latest."""


class Assembler:
    """One thread that completes series when they are due.

    Parameters
    ----------
    run_folder
        Where the wake-up sockets are, the workers' and its own.
    on_fatal
        Called when the thread has failed and the role has to end.
    """

    def __init__(
        self,
        journal: Journal,
        assessor: Assessor,
        metrics: Metrics,
        *,
        run_folder: Path,
        on_fatal: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._assessor = assessor
        self._metrics = metrics
        self._run_folder = run_folder
        self._stopping = False
        self._thread = GuardedThread("assembler", self._run, on_fatal)

    def start(self) -> None:
        """Begin; series that became due while the role was down are completed at once."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread; what is due stays in the journal for the next start."""
        self._stopping = True
        send_hint(self._run_folder, "assembler")
        self._thread.end(timeout_s)

    def settle(self, series_ids: Iterable[int], settle_at: float, sign: str) -> None:
        """Note an end mark (see ``Instances.settle``) and see to it in time."""
        self._journal.instances.settle(series_ids, settle_at, sign)
        send_hint(self._run_folder, "assembler")

    def _run(self) -> None:
        with closing(HintSocket(self._run_folder, "assembler")) as hints:
            while not self._stopping:
                for series in self._journal.instances.due(time.time()):
                    self._complete(series)
                due_at = self._journal.instances.next_due_at()
                hints.wait(_POLL_S if due_at is None else min(_POLL_S, due_at - time.time()))

    def _complete(self, series: DueSeries) -> None:
        assessments = self._assessor.assess(Scope.SERIES, series.sop_class_uids, series.image_count, series.attributes)
        jobs = self._journal.instances.complete(series, assessments, time.time())
        if jobs is None:
            return  # an image came in between; the series is due again later
        self._metrics.series.labels(series.sign).inc()
        if series.missing:
            self._metrics.short_series.inc()
        self._assessor.count(assessments)
        if jobs:
            send_hint(self._run_folder, "worker")
        refusals = "; ".join(f"{a.model}: {a.refusal}" for a in assessments if a.refusal and not a.shadow)
        _log.info(
            "series %d revision %d complete (%s): %d image(s)%s, %d job(s)%s",
            series.series_id,
            series.revision,
            series.sign,
            series.image_count,
            f" of {series.image_count + series.missing} expected" if series.missing else "",
            jobs,
            f"; {refusals}" if refusals else "",
        )
