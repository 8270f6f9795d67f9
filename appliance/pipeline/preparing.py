"""Preparing the jobs of a series while its images still arrive, so that the networks can start when it is complete.

The thread here follows the series that are being received and that a model of this worker wants: it reads each image
as it comes, lets it be decoded, and once no more seem to come it puts all in place and prepares it for the models. It
uses what is spare: decoders are nicer than the worker, what takes a core is left while a network runs, and memory is
bounded by ``worker.prepare_bytes``. Nothing depends on it: what is not here when a job is claimed is done then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appliance.domain.states import Scope
from appliance.imaging.decoders import Decoders
from appliance.imaging.file import read_image_file
from appliance.imaging.loading import LoadedImage
from appliance.imaging.source import expected_bytes
from appliance.journal.following import ArrivedImage, ArrivingSeries
from appliance.journal.journal import Journal
from appliance.journal.records import ClaimedJob
from appliance.observability.guarded_thread import GuardedThread
from appliance.observability.metrics import Metrics
from appliance.pipeline.model import FirstTensor
from appliance.pipeline.model_thread import ModelThread
from appliance.pipeline.prepared_series import PreparedSeries, images_of
from appliance.spool.spool import Spool

_log = logging.getLogger(__name__)

_IDLE_POLL_S = 0.2
_POLL_S = 0.04
"""While images arrive; the journal is asked whether anything has changed, which costs microseconds."""
_QUIET_S = 0.5
"""Without a sign of the end: how long after an image it is taken for the last one, the first time."""


@dataclass(slots=True)
class _Followed:
    series: PreparedSeries
    models: Sequence[ModelThread]
    images: list[tuple[str, str]] = field(default_factory=list)
    last_instance_id: int = 0
    changed_at: float = field(default_factory=time.monotonic)
    patience_s: float = _QUIET_S
    in_place: bool = False


class Preparer:
    """Loads the images of jobs, and prepares what it can before they are claimed.

    Parameters
    ----------
    share, shares
        Which part of the series this worker prepares, from 0 on, of how many.
    max_bytes
        Memory that may be held for series whose jobs are not claimed yet; 0 prepares nothing.
    decoders
        The caller's, who closes them.
    models
        The models that this worker can run at the moment.
    is_idle
        Whether no network runs.
    """

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        decoders: Decoders,
        metrics: Metrics,
        *,
        share: int,
        shares: int,
        max_bytes: int,
        models: Callable[[], Sequence[ModelThread]],
        is_idle: Callable[[], bool],
        on_fatal: Callable[[], None],
    ) -> None:
        self._following = journal.following
        self._spool = spool
        self._decoders = decoders
        self._metrics = metrics
        self._share = (share, shares)
        self._max_bytes = max_bytes
        self._models = models
        self._is_idle = is_idle
        self._held: dict[int, _Followed] = {}
        self._asked: tuple[ModelThread, ...] = ()
        self._unwanted: set[int] = set()  # series that none of these wants
        self._stop = threading.Event()
        self._thread = GuardedThread("prepare", self._run, on_fatal)

    def start(self) -> None:
        """Begin to follow what arrives."""
        if self._max_bytes:
            self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Follow nothing more."""
        self._stop.set()
        if self._max_bytes:
            self._thread.end(timeout_s)

    def load(self, job: ClaimedJob, model: ModelThread) -> tuple[LoadedImage, FirstTensor]:
        """Return the image of a job and what the model's first network gets; on the thread of whoever calls.

        Raises
        ------
        UnsuitableImage, DecoderLost, OSError
            See ``PreparedSeries.take``.
        """
        followed = self._held.get(job.series_id) if job.scope is Scope.SERIES else None
        series = PreparedSeries(self._decoders) if followed is None else followed.series
        images = images_of(self._spool.root, job.images)
        with series.lock:
            if job.scope is Scope.SERIES and not job.shadow:
                prepared = followed is not None and series.covers(images)
                self._metrics.prepared_jobs.labels(job.model, "prepared" if prepared else "late").inc()
            return series.take(model, images)

    def _run(self) -> None:
        changes, arriving = -1, list[ArrivingSeries]()
        while not self._stop.wait(_POLL_S if arriving else _IDLE_POLL_S):
            if (now := self._following.changes()) != changes:
                changes, arriving = now, self._following.arriving(*self._share)
                self._let_go(arriving)
            for series in arriving:
                self._follow(series)
            self._metrics.prepared_bytes.set(self._bytes())

    def _bytes(self) -> int:
        return sum(followed.series.bytes for followed in self._held.values())

    def _let_go(self, arriving: Sequence[ArrivingSeries]) -> None:
        """Free what no job will ask for any more."""
        self._unwanted &= {series.series_id for series in arriving}
        if self._held:
            for series_id in set(self._held) - self._following.wanted(self._held):
                del self._held[series_id]

    def _follow(self, arriving: ArrivingSeries) -> None:
        followed = self._held.get(arriving.series_id)
        if followed is None:
            models = self._models_for(arriving)
            if not models:
                self._unwanted.add(arriving.series_id)
                return
            followed = self._held[arriving.series_id] = _Followed(
                PreparedSeries(self._decoders, self._max_bytes), models
            )
        if not self._take_in(arriving.series_id, followed):
            return
        quiet_s = time.monotonic() - followed.changed_at
        if followed.in_place or not (arriving.ended or quiet_s >= followed.patience_s) or not self._is_idle():
            return
        if not followed.series.are_decoded():
            return  # nobody else can use the lock while this thread waits for a decoder
        self._put_in_place(followed)
        # A sender that pauses may do so again.
        followed.patience_s *= 2

    def _models_for(self, arriving: ArrivingSeries) -> list[ModelThread]:
        """The models that will want the series, as far as its first images say."""
        if (models := tuple(self._models())) != self._asked:
            self._asked, self._unwanted = models, set()
        if arriving.series_id in self._unwanted:
            return []
        return [
            model
            for model in models
            if model.manifest.scope == Scope.SERIES
            and model.manifest.match.refusal(
                frozenset({arriving.sop_class_uid}),
                max(arriving.image_count, model.manifest.match.min_images),
                arriving.attributes,
            )
            is None
        ]

    def _take_in(self, series_id: int, followed: _Followed) -> bool:
        """Read what has come since; whether all is here, as far as it can be read."""
        for image in self._following.images(series_id, followed.last_instance_id):
            if self._stop.is_set():
                return False
            try:
                if not self._keep(image, followed.series):
                    return False  # until a job has taken what is held
            except Exception as error:  # noqa: BLE001 - whatever was sent: the job that finds the same will say so
                _log.debug("an image cannot be prepared: %s", type(error).__name__)
            followed.images.append((image.path, image.sha256))
            followed.last_instance_id = image.instance_id
            followed.changed_at, followed.in_place = time.monotonic(), False
        return True

    def _keep(self, image: ArrivedImage, series: PreparedSeries) -> bool:
        """Read an image and begin to decode it; ``False`` when there is no memory left for it."""
        path = self._spool.absolute(image.path)
        if series.covers(((path, image.sha256),)):
            return True  # a job was quicker
        free = self._max_bytes - self._bytes()
        if image.bytes > free:
            return False
        file = read_image_file(path)
        size = expected_bytes(file)
        if size > free:
            return False
        with series.lock:
            series.keep(path, image.sha256, file, size)
        return True

    def _put_in_place(self, followed: _Followed) -> None:
        images = images_of(self._spool.root, followed.images)
        for model in followed.models:
            with followed.series.lock:
                try:
                    followed.series.prepare(model, images)
                except Exception as error:  # noqa: BLE001 - the job that finds the same will say so
                    _log.debug("a series cannot be prepared for %s: %s", model.manifest.key, type(error).__name__)
        followed.in_place = True
