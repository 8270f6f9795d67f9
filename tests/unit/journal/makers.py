"""Rows for the journal's tests, with everything that a test does not care about filled in."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from appliance.domain.attributes import Attributes
from appliance.journal.journal import Journal
from appliance.journal.records import Assessment, ClaimedJob, DueSeries, ReceivedInstance, Registration, ResultRow
from tests.conftest import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "appliance" / "journal" / "schema").glob("*.sql"))
"""The versions of the schema; the first one is number 1."""

CT = "1.2.840.10008.5.1.4.1.1.2"
STABLE_AGE_S = 30.0
YES = Assessment("brain", "1.0.0", None)
NO = Assessment("lung", "1.0.0", "Modality is CT, wants CR or DX")


def received(
    sop: str,
    *,
    series: str = "1.2.3",
    study: str = "1.2",
    at: float = 100.0,
    frames: int = 1,
    announced: int = 0,
    attributes: Attributes | None = None,
) -> ReceivedInstance:
    """An instance that has arrived at ``at``."""
    return ReceivedInstance(
        study_instance_uid=study,
        series_instance_uid=series,
        sop_instance_uid=sop,
        sop_class_uid=CT,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        frames=frames,
        attributes=attributes or {},
        path=f"instances/{study}/{series}/{sop}.dcm",
        bytes=1000,
        sha256=f"sha256 of {sop}",
        source="dicom",
        received_at=at,
        announced=announced,
    )


def register(
    journal: Journal,
    instance: ReceivedInstance,
    assessments: Sequence[Assessment] = (),
    stable_age_s: float = STABLE_AGE_S,
    settle_s: float = 1.0,
    forward_to: Sequence[str] = (),
) -> Registration:
    """Register an instance; without ``assessments`` no model wants single instances."""
    return journal.instances.register(
        instance, assessments, stable_age_s=stable_age_s, settle_s=settle_s, forward_to=forward_to
    )


def complete(
    journal: Journal, now: float, assessments: Sequence[Assessment] = (YES,)
) -> tuple[list[DueSeries], list[int | None]]:
    """Complete what is due at ``now``."""
    due = journal.instances.due(now)
    return due, [journal.instances.complete(series, assessments, now) for series in due]


def queue_job(journal: Journal, name: str, *, at: float = 100.0, model: str = "brain") -> None:
    """Queue one one-instance job; ``name`` tells its image, its series and its study from others."""
    register(
        journal, received(f"{name}.3", series=f"{name}.2", study=f"{name}.1", at=at), [Assessment(model, "1.0.0", None)]
    )


def claim(journal: Journal, owner: str = "worker-0", *, now: float = 200.0, lease_s: float = 60.0) -> ClaimedJob:
    """Claim a job that must be there."""
    job = journal.jobs.claim(owner, now, lease_s)
    assert job is not None
    return job


def result(sop: str, kind: str = "sr") -> ResultRow:
    """A result object."""
    return ResultRow(
        kind=kind,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        sop_instance_uid=sop,
        series_instance_uid=f"{sop}.0",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path=f"results/{sop}.dcm",
        bytes=2000,
        sha256=f"sha256 of {sop}",
    )


def succeed(
    journal: Journal,
    job: ClaimedJob,
    owner: str = "worker-0",
    *,
    now: float = 210.0,
    kinds: Sequence[str] = ("sr", "seg"),
    destinations: Sequence[str] = ("pacs",),
) -> None:
    """End a job well, with a result of each kind for each destination."""
    journal.jobs.succeed(
        job,
        owner,
        now,
        result_json="{}",
        results=[result(f"9.{job.job_id}.{job.revision}.{number}", kind) for number, kind in enumerate(kinds)],
        destinations=dict.fromkeys(destinations, kinds),
        stages={"load": 0.5, "infer": 1.5},
    )


def dump(path: Path) -> list[str]:
    """Everything that the journal holds, as SQL: to see that nothing was written."""
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()
