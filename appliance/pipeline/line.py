"""The line that jobs go through in a worker: load → infer → encode, each in a thread of its own.

While one job is in the model, the next is decoded and the one before is written. A job is only claimed once the place
before the model is free: a worker never hoards what another could do. Which models there are may change while jobs are
on their way: each job ends on the model that it was claimed for, see ``roster``.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from appliance.config.settings import Settings
from appliance.domain.forms import USUAL_FORMS, Form
from appliance.domain.states import Stage
from appliance.errors import ApplianceError
from appliance.imaging.decoders import Decoders
from appliance.journal.hints import HintSocket, send_hint
from appliance.journal.jobs import ActivationsChanged, LeaseLost
from appliance.journal.journal import Journal
from appliance.observability.guarded_thread import GuardedThread
from appliance.observability.metrics import Metrics
from appliance.pipeline.encoding import encode
from appliance.pipeline.model import Gate
from appliance.pipeline.model_thread import ModelThread
from appliance.pipeline.outcomes import Outcomes
from appliance.pipeline.preparing import Preparer
from appliance.pipeline.roster import Lineup, Roster
from appliance.pipeline.work import Work, waits_of
from appliance.results.warm import warm_up
from appliance.spool.durable import fsync_folder
from appliance.spool.spool import Spool

_log = logging.getLogger(__name__)

_POLL_S = 1.0
_LEAST_WAIT_S = 0.05
"""How long a waiting worker sleeps at most: hints may be lost, polling is the truth."""
_STOP_GRACE_S = 25.0
"""How long the job in the model may take to finish when the worker is told to stop; then it is left to its lease."""
_DISK_PAUSE_S = 5.0
_DECODERS_NICE = 5
"""Added to the niceness of the worker: a network that runs goes before what is decoded for later."""
_STUCK_GRACE_S = 30.0
"""How much longer than its time limit a model may take before it is held to be stuck in native code."""


class InferenceLine:
    """The threads of a worker.

    Parameters
    ----------
    read_lineup
        Reads which models the worker should run; called at the start and whenever the journal's activations change.
    gate
        What has to hold for a model to serve; see ``Model.open``.
    on_ready
        Called when the models are warm.
    on_fatal
        Called when a thread cannot go on and the role has to end.
    """

    def __init__(
        self,
        owner: str,
        settings: Settings,
        journal: Journal,
        spool: Spool,
        run_dir: Path,
        read_lineup: Callable[[], Lineup],
        metrics: Metrics,
        *,
        gate: Gate | None = None,
        on_ready: Callable[[], None],
        on_fatal: Callable[[], None],
    ) -> None:
        self._owner = owner
        self._settings = settings
        self._jobs = journal.jobs
        self._activations = journal.activations
        self._spool = spool
        self._run_dir = run_dir
        self._metrics = metrics
        self._on_ready = on_ready
        self._on_fatal = on_fatal
        self._destinations: dict[str, Sequence[Form]] = {d.name: d.results for d in settings.destinations}
        # The usual ones are always there to look at.
        self._forms = {*USUAL_FORMS, *(form for d in settings.destinations for form in d.results)}
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._warm = threading.Event()
        self._outcomes = Outcomes(owner, journal.jobs, settings.worker, metrics, self._pause_for_disk)
        # Whoever holds this may claim; the inference thread hands it back when it takes the work.
        self._place = threading.Semaphore(1)
        # A model in the queue is over: the jobs that were claimed for it stand before it.
        self._to_infer: queue.SimpleQueue[Work | ModelThread | None] = queue.SimpleQueue()
        self._to_encode: queue.Queue[Work | None] = queue.Queue(maxsize=1)
        self._stuck_at: float | None = None  # by time.monotonic: when the model that runs now is held to be stuck
        self._hints = HintSocket(run_dir, owner)
        self._roster = Roster(read_lineup, gate, metrics, partial(send_hint, run_dir, owner))
        self._decoders = Decoders(
            settings.worker.decoders or max(1, len(os.sched_getaffinity(0)) // settings.worker.count),
            niceness=_DECODERS_NICE,
            on_crash=metrics.decoder_crashes.inc,
        )
        self._preparer = Preparer(
            journal,
            spool,
            self._decoders,
            metrics,
            share=int(owner.rpartition("-")[2]),
            shares=settings.worker.count,
            max_bytes=settings.worker.prepare_bytes,
            models=self._roster.serving,
            is_idle=lambda: self._stuck_at is None,
            on_fatal=self._failed,
        )
        self._complaint: str | None = None
        self._threads = [
            GuardedThread("load", self._load_jobs, self._failed),
            GuardedThread("infer", self._infer_jobs, self._failed),
            GuardedThread("encode", self._encode_jobs, self._failed),
        ]
        self._background = [
            GuardedThread("open", self._open_models, self._failed),
            GuardedThread("lease", self._keep_leases, self._failed),
        ]

    def start(self) -> None:
        """Take back what an earlier life left, then start the threads.

        Raises
        ------
        ConfigurationError
            Which models to run cannot be read.
        """
        self._roster.refresh()
        found = self._jobs.recover(self._owner, time.time(), self._settings.worker.max_attempts)
        if found:
            _log.warning("%d job(s) were left by an earlier life of this worker", found)
        for thread in (*self._threads, *self._background):
            thread.start()
        self._preparer.start()

    def stop(self) -> None:
        """Claim no more; finish what is in the model, give back what is not."""
        self._stop.set()
        self._roster.stop()
        self._preparer.stop()
        # When a thread has failed, the ones after it wait for work that will not come: they are given a moment to end
        # what they are at, and then the role just ends.
        whole = all(thread.is_alive() for thread in self._threads)
        deadline = time.monotonic() + (_STOP_GRACE_S if whole else 2 * _POLL_S)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._ended.set()
        for thread in self._background:
            thread.join(_POLL_S)
        self._decoders.close()
        self._hints.close()

    def _failed(self) -> None:
        """A thread has ended by itself: the others claim nothing more, and the role ends."""
        self._stop.set()
        self._on_fatal()

    # Each loop passes ``None`` on at its end, so that the next one ends after the work before it.

    def _load_jobs(self) -> None:
        while not self._stop.is_set():
            if not self._warm.wait(_POLL_S):
                continue
            # Also while the place is taken: the new version is opened while the old one is still at work.
            if self._activations.generation() != self._roster.generation:
                self._change_models()
            if not self._place.acquire(timeout=_POLL_S):
                continue
            work = self._claim()
            if work is None or not self._outcomes.attempt(work, self._load):
                self._place.release()
            else:
                self._to_infer.put(work)
        self._to_infer.put(None)

    def _infer_jobs(self) -> None:
        while (work := self._to_infer.get()) is not None:
            if isinstance(work, ModelThread):
                work.close()
                continue
            self._place.release()
            if self._stop.is_set():
                self._give_back(work)
            elif self._outcomes.attempt(work, self._infer):
                self._to_encode.put(work)
        self._to_encode.put(None)
        self._roster.close()

    def _open_models(self) -> None:
        self._roster.open_first()
        warm_up()
        if not self._stop.is_set():
            self._warm.set()
            self._on_ready()
        self._roster.keep_opening()

    def _encode_jobs(self) -> None:
        while (work := self._to_encode.get()) is not None:
            self._outcomes.attempt(work, self._encode)

    def _keep_leases(self) -> None:
        lease_s = self._settings.worker.lease_s
        held_until = time.time()
        while True:
            now = time.time()
            # Who was late itself is no judge of others: after a pause of the machine, or when its clock was set
            # forward, all leases look as if they had run out. The others get this turn to extend theirs.
            on_time, held_until = now <= held_until, now + lease_s
            self._jobs.extend(self._owner, held_until)
            if on_time:
                self._take_over(now)
            # Often enough that one slow write to the journal, or one lost moment, costs no lease.
            if self._ended.wait(lease_s / 4):
                return
            if self._stuck_at is not None and time.monotonic() > self._stuck_at:
                raise RuntimeError("a model has not come back from native code within its time limit")

    def _take_over(self, now: float) -> None:
        """Queue the jobs of workers that give no sign any more; one that was taken from the settings never will."""
        found = self._jobs.recover_expired(now, self._settings.worker.max_attempts)
        if found:
            _log.warning("%d job(s) were left by workers that give no sign any more", found)

    def _claim(self) -> Work | None:
        """Take the next job that a model here can do; wait a moment when there is none."""
        opening = self._roster.opening()
        try:
            job = self._jobs.claim(
                self._owner,
                time.time(),
                self._settings.worker.lease_s,
                generation_known=self._roster.generation,
                not_yet=opening,
            )
        except ActivationsChanged:
            return None
        if job is None:
            available = self._jobs.next_available_at(opening)
            # One that is due and not to be had waits for another worker to be done with an earlier revision.
            wait_s = _POLL_S if available is None else available - time.time()
            self._hints.wait(min(_POLL_S, max(_LEAST_WAIT_S, wait_s)))
            return None
        found = self._roster.find(job)
        if isinstance(found, ModelThread):
            return Work(job, found, waits_of(job))
        key = f"{job.model}/{job.model_version}"
        self._outcomes.fail(
            job, "model-unusable", f"{key} cannot run: {found}. Then: appliance requeue", retryable=False
        )
        return None

    def _change_models(self) -> None:
        """Run from now on what the journal says; what cannot be read leaves the jobs waiting until it can."""
        try:
            over = self._roster.refresh()
        except ApplianceError as error:
            if str(error) != self._complaint:
                _log.error("jobs wait, because what to run cannot be read: %s", error)
            self._complaint = str(error)
            self._hints.wait(_POLL_S)
            return
        self._complaint = None
        for model in over:
            _log.info("%s is given up", model.manifest.key)
            self._to_infer.put(model)

    def _give_back(self, work: Work) -> None:
        try:
            self._outcomes.give_back(work.job)
        except LeaseLost as error:
            _log.warning("%s", error)

    def _pause_for_disk(self) -> None:
        self._stop.wait(_DISK_PAUSE_S)

    def _load(self, work: Work) -> None:
        started = time.monotonic()
        work.loaded, work.first = self._preparer.load(work.job, work.model)
        work.stages[Stage.LOAD] = time.monotonic() - started

    def _infer(self, work: Work) -> None:
        assert work.loaded is not None and work.first is not None
        first, work.first = work.first, None
        work.stages[Stage.TO_INFER] = max(0.0, time.time() - work.job.created_at)
        self._stuck_at = time.monotonic() + work.model.manifest.runtime.time_limit_s + _STUCK_GRACE_S
        try:
            work.result = work.model.judge(work.loaded.image, work.stages, first)
        finally:
            self._stuck_at = None

    def _encode(self, work: Work) -> None:
        assert work.result is not None and work.loaded is not None
        started = time.monotonic()
        job = work.job
        # After an operator's requeue the attempts are counted from 1 again: a worker that slept through it must not
        # remove, as leftovers, the results that have been promised meanwhile.
        self._jobs.require_lease(job, self._owner)
        folder = self._spool.results_folder(job.job_id, job.attempt)
        encoded = encode(
            work.result,
            work.loaded.datasets,
            folder,
            model_key=work.model.manifest.key,
            scope=job.scope,
            shadow=job.shadow,
            revision=job.revision,
            created_at=job.created_at,
            device_serial=self._settings.device_serial,
            predecessor=self._jobs.predecessor(job),
            forms=self._forms,
            language=self._settings.report.language,
            path_of=self._spool.relative,
        )
        # The files are durable, their names are not yet; the journal must not name what a power loss could take away.
        fsync_folder(folder)
        work.stages[Stage.WRITE] = time.monotonic() - started
        self._jobs.succeed(
            job,
            self._owner,
            time.time(),
            result_json=encoded.summary,
            results=encoded.rows,
            destinations=self._destinations,
            stages=work.stages,
        )
        send_hint(self._run_dir, "sender")
        self._outcomes.count(work, "succeeded")
