"""One job on its way through the line."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.domain.result import InferenceResult
from appliance.domain.states import Stage
from appliance.imaging.loading import LoadedImage
from appliance.journal.records import ClaimedJob
from appliance.pipeline.model import FirstTensor
from appliance.pipeline.model_thread import ModelThread


@dataclass(slots=True)
class Work:
    """A claimed job, and what the stages have made of it so far; ``stages`` holds the seconds that each took.

    ``first`` is gone once the first network has had it.
    """

    job: ClaimedJob
    model: ModelThread
    stages: dict[str, float]
    loaded: LoadedImage | None = None
    first: FirstTensor | None = None
    result: InferenceResult | None = None


def waits_of(job: ClaimedJob) -> dict[str, float]:
    """Seconds that passed before a worker had the job. Clocks may step back: never below zero."""
    return {
        Stage.RECEIVE: max(0.0, job.last_received_at - job.first_received_at),
        Stage.SETTLE: max(0.0, job.created_at - job.last_received_at),
        Stage.QUEUE: max(0.0, job.claimed_at - job.created_at),
    }
