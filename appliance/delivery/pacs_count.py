"""Asking a PACS how many instances of a series it has (C-FIND, PS3.4 annex C), where no other sign ends the wait.

An appliance that a PACS forwards images to gets them when the PACS has them. So a series is whole when the PACS has
as many instances as are here; but while it still receives, that is so after every image. Therefore the same count has
to come twice, and both times after a while without an image. Whatever else comes is no answer: then the series is
complete by its stable age, as without a PACS to ask.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from appliance.config.settings import CountingPacs, Retry
from appliance.delivery.requestor import Requestor
from appliance.delivery.retry import wait_s
from appliance.errors import DeliveryRetry
from appliance.journal.hints import send_hint
from appliance.journal.journal import Journal
from appliance.journal.records import QuietSeries
from appliance.observability.guarded_thread import GuardedThread
from appliance.observability.metrics import Metrics

_log = logging.getLogger(__name__)

_POLL_S: Final = 0.5
_PENDING: Final = (0xFF00, 0xFF01)
_MOST_ANSWERS: Final = 100
"""To a question about one series: a PACS that goes on answers about something else."""
_RETRY: Final = Retry(first_s=5)


@dataclass(slots=True)
class _Answer:
    """``since`` and ``at``: when this count was first and last given, by ``time.monotonic``."""

    instances: int
    since: float
    at: float


class PacsCount:
    """Asks about the series that have become quiet, in a thread of its own.

    Parameters
    ----------
    ae_title
        How the appliance calls itself.
    run_folder
        Where the assembler's wake-up socket is.
    on_fatal
        Called when the thread has failed and the role has to end.
    """

    def __init__(
        self,
        pacs: CountingPacs,
        *,
        ae_title: str,
        journal: Journal,
        metrics: Metrics,
        run_folder: Path,
        on_fatal: Callable[[], None],
    ) -> None:
        self._ask_after_s = pacs.ask_after_s
        self._requestor = Requestor(pacs, ae_title, [StudyRootQueryRetrieveInformationModelFind])
        self._expectations = journal.expectations
        self._metrics = metrics
        self._run_folder = run_folder
        self._answers: dict[int, _Answer] = {}
        self._failures = 0
        self._stopping = threading.Event()
        self._thread = GuardedThread("pacs-count", self._run, on_fatal)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; a question under way is left to itself."""
        self._stopping.set()
        self._thread.end(2 * _POLL_S)

    def _run(self) -> None:
        poll_s = rest_s = min(_POLL_S, self._ask_after_s)
        while not self._stopping.wait(rest_s):
            try:
                self._round()
                rest_s = poll_s
            except DeliveryRetry as error:
                self._failures += 1
                rest_s = wait_s(_RETRY, self._failures, random.random())
                self._metrics.pacs_counts.labels("unreachable").inc()
                # Once: nothing is lost by it, and reception goes on.
                _log.log(
                    logging.WARNING if self._failures == 1 else logging.DEBUG,
                    "series are complete by their stable age, as the PACS cannot be asked: %s",
                    error,
                )

    def _round(self) -> None:
        now = time.time()
        quiet = self._expectations.quiet(now - self._ask_after_s, now)
        self._answers = {s.series_id: self._answers[s.series_id] for s in quiet if s.series_id in self._answers}
        due = [series for series in quiet if self._is_due(series)]
        if not due:
            return
        with self._requestor.association() as association:
            for series in due:
                if self._stopping.is_set():
                    return
                self._judge(series, _count(association, series))
        if self._failures:
            _log.info("the PACS answers again")
            self._failures = 0

    def _is_due(self, series: QuietSeries) -> bool:
        known = self._answers.get(series.series_id)
        return known is None or time.monotonic() - known.at >= self._ask_after_s

    def _judge(self, series: QuietSeries, instances: int) -> None:
        """Compare an answer with what is here; 0: there was none, or none that can be."""
        now = time.monotonic()
        known = self._answers.get(series.series_id)
        is_again = known is not None and known.instances == instances
        since = known.since if known is not None and is_again else now
        self._answers[series.series_id] = _Answer(instances, since, now)
        self._expectations.note_count(series, instances)
        if instances != series.instances:
            outcome = "none" if not instances else "more" if instances > series.instances else "fewer"
            self._metrics.pacs_counts.labels(outcome).inc()
            return
        self._metrics.pacs_counts.labels("equal").inc()
        if is_again and self._expectations.confirm(series, time.time()):
            send_hint(self._run_folder, "assembler")


def _count(association: Association, series: QuietSeries) -> int:
    """How many instances of the series the PACS says that it has; 0 where it says nothing that can be true.

    Raises
    ------
    DeliveryRetry
        The association has broken off, or the PACS did not answer in time.
    """
    question = Dataset()
    question.QueryRetrieveLevel = "SERIES"
    question.StudyInstanceUID = series.study_instance_uid
    question.SeriesInstanceUID = series.series_instance_uid
    question.NumberOfSeriesRelatedInstances = None
    counts = set()
    try:
        answers = association.send_c_find(question, StudyRootQueryRetrieveInformationModelFind)
    except RuntimeError as error:
        raise DeliveryRetry("the PACS has ended the association") from error
    for number, (status, answer) in enumerate(answers):
        if "Status" not in status or number == _MOST_ANSWERS:
            raise DeliveryRetry("the PACS did not bring its answer to a C-FIND request to an end")
        if status.Status in _PENDING and answer is not None:
            counts.add(_number(answer, series))
    # Some return all that they have, whatever was asked for; and two different numbers of one series are none.
    counts.discard(0)
    return counts.pop() if len(counts) == 1 else 0


def _number(answer: Dataset, series: QuietSeries) -> int:
    try:
        if str(answer.SeriesInstanceUID) != series.series_instance_uid:
            return 0
        number = int(answer.NumberOfSeriesRelatedInstances)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return 0
    return number if 0 < number < 2**31 else 0
