"""The line that jobs go through in a worker: load → infer → encode, each in a thread of its own.

While one job is in the model, the next is decoded and the one before is written. Between the threads lie queues of
length one, and a job is only claimed once the place behind it is free: a worker never hoards what another could do.
The inference thread opens the models and owns them (a GPU context belongs to one thread) for life.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.config.settings import Settings
from appliance.domain.result import InferenceResult
from appliance.domain.states import Stage
from appliance.errors import ApplianceError, DeviceLost, SpoolFull, UnsuitableImage
from appliance.imaging.loading import LoadedImage
from appliance.journal.hints import HintSocket, send_hint
from appliance.journal.jobs import LeaseLost
from appliance.journal.journal import Journal
from appliance.journal.records import ClaimedJob
from appliance.observability.guarded_thread import GuardedThread
from appliance.observability.metrics import Metrics
from appliance.pipeline.encoding import encode
from appliance.pipeline.model import Model
from appliance.results.warm import warm_up
from appliance.spool.spool import Spool

_log = logging.getLogger(__name__)

_POLL_S = 1.0
"""How long a waiting worker sleeps at most: hints may be lost, polling is the truth."""
_STOP_GRACE_S = 25.0
"""How long the job in the model may take to finish when the worker is told to stop; then it is left to its lease."""
_DISK_PAUSE_S = 5.0


@dataclass(slots=True)
class _Work:
    """One job on its way through the line."""

    job: ClaimedJob
    model: Model
    stages: dict[str, float]
    loaded: LoadedImage | None = None
    result: InferenceResult | None = None


class InferenceLine:
    """The three threads of a worker.

    Parameters
    ----------
    models
        By ``name/version``; opened, warmed and used by the inference thread alone.
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
        models: Mapping[str, Model],
        metrics: Metrics,
        *,
        on_ready: Callable[[], None],
        on_fatal: Callable[[], None],
    ) -> None:
        self._owner = owner
        self._settings = settings
        self._journal = journal
        self._spool = spool
        self._run_dir = run_dir
        self._models = models
        self._metrics = metrics
        self._on_ready = on_ready
        self._on_fatal = on_fatal
        self._destinations: dict[str, Sequence[str]] = {d.name: d.results for d in settings.destinations}
        self._stop = threading.Event()
        self._warm = threading.Event()
        self._unusable: dict[str, str] = {}
        self._to_infer: queue.Queue[_Work | None] = queue.Queue(maxsize=1)
        self._to_encode: queue.Queue[_Work | None] = queue.Queue(maxsize=1)
        self._hints = HintSocket(run_dir, owner)
        self._threads = [
            GuardedThread(name, run, self._failed)
            for name, run in (
                ("load", self._load_jobs),
                ("infer", self._infer_jobs),
                ("encode", self._encode_jobs),
                ("lease", self._keep_leases),
            )
        ]

    def start(self) -> None:
        """Take back what an earlier life left, then start the threads."""
        found = self._journal.jobs.recover(self._owner, time.time(), self._settings.worker.max_attempts)
        if found:
            _log.warning("%d job(s) were left by an earlier life of this worker", found)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Claim no more; finish what is in the model, give back what is not."""
        self._stop.set()
        deadline = time.monotonic() + _STOP_GRACE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._hints.close()

    def _failed(self) -> None:
        """A thread of the line has ended by itself: the others claim nothing more, and the role ends."""
        self._stop.set()
        self._on_fatal()

    # Each loop passes ``None`` on at its end, so that the next one ends after the work before it.

    def _load_jobs(self) -> None:
        while not self._warm.wait(_POLL_S):
            if self._stop.is_set():
                self._to_infer.put(None)
                return
        while not self._stop.is_set():
            job = self._journal.jobs.claim(self._owner, time.time(), self._settings.worker.lease_s)
            if job is None:
                self._wait_for_work()
                continue
            key = f"{job.model}/{job.model_version}"
            model = self._models.get(key)
            if model is None or key in self._unusable:
                reason = self._unusable.get(key, "it is not active here; activate it (models.active)")
                self._fail(job, "model-unusable", f"{key} cannot run: {reason}. Then: appliance requeue")
                continue
            work = _Work(job, model, _waits(job))
            if self._attempt(work, self._load):
                self._to_infer.put(work)
                while not self._to_infer.empty() and not self._stop.wait(0.002):
                    pass
        self._to_infer.put(None)

    def _infer_jobs(self) -> None:
        for key, model in self._models.items():
            if self._stop.is_set():
                break
            self._open(key, model)
        if not self._stop.is_set():
            warm_up()
            self._warm.set()
            self._on_ready()
        while (work := self._to_infer.get()) is not None:
            if self._stop.is_set():
                self._give_back(work.job)
            elif self._attempt(work, self._infer):
                self._to_encode.put(work)
        self._to_encode.put(None)
        for model in self._models.values():
            model.close()

    def _open(self, key: str, model: Model) -> None:
        """Open one model; one that cannot run does not keep the others from running."""
        ready = self._metrics.model_ready.labels
        started = time.monotonic()
        try:
            backend = model.open()
        except ApplianceError as error:
            _log.error("%s cannot run: %s", key, error)
            self._unusable[key] = str(error)
            ready(model.manifest.name, model.manifest.version, "none").set(0)
            return
        ready(model.manifest.name, model.manifest.version, backend).set(1)
        _log.info("%s is warm on %s after %.1f s", key, backend, time.monotonic() - started)

    def _encode_jobs(self) -> None:
        while (work := self._to_encode.get()) is not None:
            self._attempt(work, self._encode)

    def _keep_leases(self) -> None:
        lease_s = self._settings.worker.lease_s
        others = [thread for thread in self._threads if thread.name != "lease"]
        while any(thread.is_alive() for thread in others):
            self._journal.jobs.extend(self._owner, time.time() + lease_s)
            # In good time even if one write to the journal takes long.
            for _ in range(int(lease_s / 4 / 0.25) or 1):
                if self._stop.wait(0.25) and not any(thread.is_alive() for thread in others):
                    return

    def _wait_for_work(self) -> None:
        available = self._journal.jobs.next_available_at()
        wait = _POLL_S if available is None else min(_POLL_S, max(0.0, available - time.time()))
        self._hints.wait(wait)

    def _load(self, work: _Work) -> None:
        started = time.monotonic()
        work.loaded = work.model.load([self._spool.absolute(path) for path in work.job.paths])
        work.stages[Stage.LOAD] = time.monotonic() - started

    def _infer(self, work: _Work) -> None:
        assert work.loaded is not None
        work.result = work.model.judge(work.loaded.image, work.stages)

    def _encode(self, work: _Work) -> None:
        assert work.result is not None and work.loaded is not None
        started = time.monotonic()
        job = work.job
        folder = self._spool.results_folder(job.job_id, job.attempt)
        encoded = encode(
            work.result,
            work.loaded.datasets,
            folder,
            model_key=work.model.manifest.key,
            scope=job.scope,
            revision=job.revision,
            created_at=job.created_at,
            device_serial=self._settings.device_serial,
            predecessor=self._journal.jobs.predecessor(job),
            path_of=self._spool.relative,
        )
        work.stages[Stage.WRITE] = time.monotonic() - started
        self._journal.jobs.succeed(
            job,
            self._owner,
            time.time(),
            result_json=encoded.summary,
            results=encoded.rows,
            destinations=self._destinations,
            stages=work.stages,
        )
        send_hint(self._run_dir, "sender")
        self._count(work, "succeeded")

    def _attempt(self, work: _Work, step: Callable[[_Work], None]) -> bool:
        """Run one step of a job; when it fails, the journal says why and the line goes on with the next job."""
        job = work.job
        _log.debug("job %d: %s", job.job_id, step.__name__.lstrip("_"))
        try:
            step(work)
            return True
        except LeaseLost as error:
            _log.warning("%s", error)
        except UnsuitableImage as error:
            _log.info("job %d: not suitable for %s (%s)", job.job_id, job.model, error.reason)
            self._journal.jobs.unsuitable(job, self._owner, time.time(), error.reason, str(error), work.stages)
            self._count(work, "unsuitable")
        except DeviceLost:
            # The device's state is unknown: end the process. The job is taken back at the next start.
            raise
        except SpoolFull as error:
            self._pause_for_disk(job, str(error))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._pause_for_disk(job, error.strerror or "no space")
            else:
                self._fail(job, "io-error", f"{error.strerror}; check the disk of the state folder", retryable=True)
        except ApplianceError as error:
            self._fail(job, type(error).__name__, str(error), retryable=error.retryable)
        except Exception as error:  # noqa: BLE001 - one job's defect must not stop the others
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = "?" if place is None else f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
            # The text of a foreign error may hold data of the image: only its type and place are kept.
            self._fail(job, "defect", f"{type(error).__name__} at {where}; report it", retryable=True)
        return False

    def _fail(self, job: ClaimedJob, reason: str, message: str, *, retryable: bool = False) -> None:
        now = time.time()
        worker = self._settings.worker
        try:
            again = self._journal.jobs.fail(
                job,
                self._owner,
                now,
                reason,
                message,
                retry_at=now + worker.retry_s if retryable else None,
                max_attempts=worker.max_attempts,
            )
        except LeaseLost:
            return
        outcome = "returned" if again else "failed"
        self._metrics.jobs.labels(job.model, outcome).inc()
        _log.error("job %d, attempt %d: %s: %s (%s)", job.job_id, job.attempt, reason, message, outcome)

    def _give_back(self, job: ClaimedJob) -> None:
        self._journal.jobs.give_back(job, self._owner)
        self._metrics.jobs.labels(job.model, "returned").inc()

    def _pause_for_disk(self, job: ClaimedJob, message: str) -> None:
        """A full disk is nobody's fault: the job waits, its attempt is not counted."""
        _log.error("job %d waits: %s", job.job_id, message)
        self._give_back(job)
        self._stop.wait(_DISK_PAUSE_S)

    def _count(self, work: _Work, outcome: str) -> None:
        self._metrics.jobs.labels(work.job.model, outcome).inc()
        for stage, seconds in work.stages.items():
            self._metrics.stage_seconds.labels(work.job.model, stage).observe(seconds)


def _waits(job: ClaimedJob) -> dict[str, float]:
    """Seconds that passed before the worker had the job. Clocks may step back: never below zero."""
    return {
        Stage.RECEIVE: max(0.0, job.last_received_at - job.first_received_at),
        Stage.SETTLE: max(0.0, job.created_at - job.last_received_at),
        Stage.QUEUE: max(0.0, job.claimed_at - job.created_at),
    }
