"""How far a shadow agrees with the version that serves, over the images that both have judged."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread

from appliance.domain.states import JobState
from appliance.journal.journal import Journal
from appliance.journal.records import JudgedJob, Spell
from appliance.results.overlap import segment_overlap
from appliance.spool.spool import Spool

_LIMITS = 1.96
"""Standard deviations within which 95 % of normally distributed differences lie (Bland and Altman 1986)."""


@dataclass(frozen=True, slots=True)
class MeasurementAgreement:
    """One measurement, in all images for which both versions have it.

    Differences are the shadow's value less the active's, in ``unit``. ``limits`` are those of agreement: mean
    difference ± 1.96 standard deviations, ``None`` with fewer than two images. ``worst_jobs`` are the active's and the
    shadow's where the difference is largest.
    """

    what: str
    unit: str
    images: int
    active_mean: float
    shadow_mean: float
    mean_difference: float
    limits: tuple[float, float] | None
    worst_difference: float
    worst_jobs: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SegmentAgreement:
    """Dice's coefficient of one segment, in all images where at least one version outlined it."""

    label: str
    images: int
    mean_dice: float
    least_dice: float
    worst_jobs: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Difference:
    """Images that were not judged by both, with what each side says: the state, and the reason when there is one."""

    active_job: int
    active: str
    shadow_job: int
    shadow: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that there is to say about a shadow.

    Attributes
    ----------
    both, waiting
        Images that both versions judged; the shadow's jobs that have not ended.
    active, shadow
        Jobs of each side by the state in which they ended, of those that ended on both sides.
    """

    spell: Spell
    both: int
    waiting: int
    active: dict[str, int]
    shadow: dict[str, int]
    measurements: tuple[MeasurementAgreement, ...]
    segments: tuple[SegmentAgreement, ...]
    differences: tuple[Difference, ...]

    def plain(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


def compare(journal: Journal, spool: Spool, spell: Spell, *, newest: int) -> Comparison:
    """Compare the newest ``newest`` images of a spell; nothing is written."""
    pairs = list(journal.comparisons.pairs(spell, newest))
    judged = [pair for pair in pairs if all(job.state == JobState.SUCCEEDED for job in pair)]
    return Comparison(
        spell=spell,
        both=len(judged),
        waiting=journal.comparisons.waiting(spell),
        active=_states([active for active, _ in pairs]),
        shadow=_states([shadow for _, shadow in pairs]),
        measurements=_measurements(judged),
        segments=_segments(judged, spool),
        differences=tuple(
            Difference(active.job_id, _words(active), shadow.job_id, _words(shadow))
            for active, shadow in pairs
            if active.state != shadow.state
        ),
    )


def _states(jobs: Sequence[JudgedJob]) -> dict[str, int]:
    states = (JobState.SUCCEEDED, JobState.UNSUITABLE, JobState.FAILED)
    return {str(state): sum(job.state == state for job in jobs) for state in states}


def _words(job: JudgedJob) -> str:
    return str(job.state) if job.reason is None else f"{job.state}: {job.message or job.reason}"


def _measurements(pairs: Sequence[tuple[JudgedJob, JudgedJob]]) -> tuple[MeasurementAgreement, ...]:
    values: dict[tuple[str, str], list[tuple[float, float, tuple[int, int]]]] = {}
    for active, shadow in pairs:
        others = dict(_values(shadow))
        for key, value in _values(active):
            if key in others:
                values.setdefault(key, []).append((value, others[key], (active.job_id, shadow.job_id)))
    return tuple(_agreement(what, unit, found) for (what, unit), found in values.items())


def _values(job: JudgedJob) -> Iterator[tuple[tuple[str, str], float]]:
    """The numbers of a stored result: what was measured and its unit, and the value; of two alike the first counts."""
    result = json.loads(job.result or "{}")
    groups = [(finding["tracking_id"], finding["measurements"]) for finding in result.get("findings", [])]
    seen = set()
    for name, measurements in [*groups, ("overall", result.get("overall", []))]:
        for measurement in measurements:
            key = (f"{name}: {measurement['concept']['meaning']}", measurement["unit"])
            if key not in seen and math.isfinite(measurement["value"]):
                seen.add(key)
                yield key, measurement["value"]


def _agreement(what: str, unit: str, found: Sequence[tuple[float, float, tuple[int, int]]]) -> MeasurementAgreement:
    differences = [shadow - active for active, shadow, _ in found]
    mean = statistics.fmean(differences)
    spread = _LIMITS * statistics.stdev(differences) if len(found) > 1 else None
    worst = max(range(len(found)), key=lambda index: abs(differences[index]))
    return MeasurementAgreement(
        what=what,
        unit=unit,
        images=len(found),
        active_mean=statistics.fmean(active for active, _, _ in found),
        shadow_mean=statistics.fmean(shadow for _, shadow, _ in found),
        mean_difference=mean,
        limits=None if spread is None else (mean - spread, mean + spread),
        worst_difference=differences[worst],
        worst_jobs=found[worst][2],
    )


def _segments(pairs: Sequence[tuple[JudgedJob, JudgedJob]], spool: Spool) -> tuple[SegmentAgreement, ...]:
    found: dict[str, list[tuple[float, tuple[int, int]]]] = {}
    for active, shadow in pairs:
        paths = [_path(job, spool) for job in (active, shadow)]
        if paths[0] is None or paths[1] is None:
            continue
        for label, dice in segment_overlap(dcmread(paths[0]), dcmread(paths[1])).items():
            found.setdefault(label, []).append((dice, (active.job_id, shadow.job_id)))
    return tuple(
        SegmentAgreement(
            label=label,
            images=len(overlaps),
            mean_dice=statistics.fmean(dice for dice, _ in overlaps),
            least_dice=min(overlaps)[0],
            worst_jobs=min(overlaps)[1],
        )
        for label, overlaps in found.items()
    )


def _path(job: JudgedJob, spool: Spool) -> Path | None:
    """Where the SEG of a job lies, if it made one and it is still here."""
    path = None if job.segmentation is None else spool.absolute(job.segmentation)
    return path if path is not None and path.is_file() else None
