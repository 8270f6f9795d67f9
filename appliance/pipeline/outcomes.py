"""What becomes of a job whose step failed: explained for ever, tried again, or returned. The line goes on."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from appliance.config.settings import Worker
from appliance.errors import ApplianceError, DeviceLost, SpoolFull, UnsuitableImage
from appliance.journal.jobs import Jobs, LeaseLost
from appliance.journal.records import ClaimedJob
from appliance.observability.metrics import Metrics
from appliance.pipeline.work import Work

_log = logging.getLogger(__name__)


class Outcomes:
    """Runs steps of jobs and writes into the journal what came of those that failed.

    Parameters
    ----------
    pause_for_disk
        Called when the disk is full, to wait a while before the next job.
    """

    def __init__(
        self, owner: str, jobs: Jobs, settings: Worker, metrics: Metrics, pause_for_disk: Callable[[], None]
    ) -> None:
        self._owner = owner
        self._jobs = jobs
        self._settings = settings
        self._metrics = metrics
        self._pause_for_disk = pause_for_disk

    def attempt(self, work: Work, step: Callable[[Work], None]) -> bool:
        """Run one step of a job; ``False`` when it failed, and the journal knows why.

        Raises
        ------
        DeviceLost
            The state of the device is unknown: the process has to end, and takes the job back at its next start.
        """
        try:
            return self._attempt(work, step)
        except LeaseLost as error:
            _log.warning("%s", error)
            return False

    def _attempt(self, work: Work, step: Callable[[Work], None]) -> bool:
        job = work.job
        _log.debug("job %d: %s", job.job_id, step.__name__.lstrip("_"))
        try:
            step(work)
            return True
        except LeaseLost:
            raise
        except DeviceLost:
            self._metrics.device_losses.labels(job.model).inc()
            raise
        except UnsuitableImage as error:
            _log.info("job %d: not suitable for %s (%s)", job.job_id, job.model, error.reason)
            self._jobs.unsuitable(job, self._owner, time.time(), error.reason, str(error), work.stages)
            self.count(work, "unsuitable")
        except SpoolFull as error:
            self._wait_for_disk(job, str(error))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._wait_for_disk(job, error.strerror or "no space")
            else:
                self.fail(job, "io-error", f"{error.strerror}; check the disk of the state folder", retryable=True)
        except ApplianceError as error:
            self.fail(job, type(error).__name__, str(error), retryable=error.retryable)
        except Exception as error:  # noqa: BLE001 - one job's defect must not stop the others
            # The text of a foreign error may hold data of the image: only its type and place are kept.
            message = f"{type(error).__name__} at {_place(error.__traceback__)}; report it"
            self.fail(job, "defect", message, retryable=True)
        return False

    def fail(self, job: ClaimedJob, reason: str, message: str, *, retryable: bool) -> None:
        """End a job, or queue it again when that may help and attempts are left."""
        now = time.time()
        again = self._jobs.fail(
            job,
            self._owner,
            now,
            reason,
            message,
            # Nobody waits for a shadow: another attempt would only keep the worker from what somebody waits for.
            retry_at=now + self._settings.retry_s if retryable and not job.shadow else None,
            max_attempts=self._settings.max_attempts,
        )
        outcome = "returned" if again else "failed"
        self._count(job, outcome)
        _log.error("job %d, attempt %d: %s: %s (%s)", job.job_id, job.attempt, reason, message, outcome)

    def give_back(self, job: ClaimedJob) -> None:
        """Return a job that was not finished, through no fault of its own: the attempt does not count."""
        self._jobs.give_back(job, self._owner)
        self._count(job, "returned")

    def count(self, work: Work, outcome: str) -> None:
        """Count a job that has ended, and how long its stages took unless it was a shadow's."""
        self._count(work.job, outcome)
        if work.job.shadow:
            return
        for stage, seconds in work.stages.items():
            self._metrics.stage_seconds.labels(work.job.model, stage).observe(seconds)

    def _count(self, job: ClaimedJob, outcome: str) -> None:
        counter = self._metrics.shadow_jobs if job.shadow else self._metrics.jobs
        counter.labels(job.model, outcome).inc()

    def _wait_for_disk(self, job: ClaimedJob, message: str) -> None:
        _log.error("job %d waits: %s", job.job_id, message)
        self.give_back(job)
        self._pause_for_disk()


def _place(trace: TracebackType | None) -> str:
    """File and line where an error was raised."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
