"""The lines of a benchmark: which there are on this machine, what was measured, and how they look in a table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from appliance.backends.table import BACKENDS, backend_class
from appliance.errors import BackendUnavailable
from appliance.manifest.manifest import BackendName, Precision
from appliance.modelrepo.package import ModelPackage
from appliance.pipeline.benchmark import Figures, Subject, measure_apart, verify_apart
from appliance.pipeline.verification import Verification

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

HEADER = (
    f"{'model':28}{'backend':22}{'precision':>10}{'load':>8}{'first':>9}{'p50':>9}{'p99':>9}{'bare':>9}"
    f"{'bare/ours':>10}{'runs':>5}{'memory':>8}{'Dice':>8}{'size':>8}\n"
    f"{'':60}{'s':>8}{'ms':>9}{'ms':>9}{'ms':>9}{'ms':>9}{'':>15}{'MB':>8}{'least':>8}{'within':>8}"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A model on a backend in a precision."""

    subject: Subject
    figures: Figures
    verification: Verification

    def __str__(self) -> str:
        figures, known = self.figures, self.verification
        # Rounded to the worse side: 0.99996 is no 1.
        dice = "" if known.least_dice is None else f"{math.floor(known.least_dice * 1e4) / 1e4:.4f}"
        worst = known.largest_size_difference
        size = "" if worst is None else f"{math.ceil(worst * 1e4) / 1e4:.2%}"
        return (
            f"{self.subject.package.manifest.key:28}{self.subject.backend + ' ' + figures.version:22}"
            f"{self.subject.precision:>10}{figures.load_s:8.2f}{figures.first_ms:9.1f}{figures.p50_ms:9.1f}"
            f"{figures.p99_ms:9.1f}{figures.bare_p50_ms:9.1f}{figures.ratio:10.3f}{figures.runs:5}"
            f"{figures.memory_mb:8}{dice:>8}{size:>8}" + ("" if known.passed else "  beyond the tolerances")
        )

    def facts(self) -> dict[str, Any]:
        """For programs."""
        known = self.verification
        differences = [case.output_difference for case in known.cases if case.output_difference is not None]
        return {
            "model": self.subject.package.manifest.key,
            "backend": self.subject.backend,
            "precision": self.subject.precision,
            "threads": self.subject.threads,
            **{name: _rounded(value) for name, value in asdict(self.figures).items()},
            "passed": known.passed,
            "least_dice": known.least_dice,
            "largest_size_difference": known.largest_size_difference,
            "largest_output_difference": max(differences, default=None),
        }


def subjects_of(
    package: ModelPackage,
    *,
    backends: tuple[BackendName, ...] = tuple(BACKENDS),
    precisions: tuple[Precision, ...] = PRECISIONS,
    threads: int,
    cache: Path,
) -> Iterator[Subject | BackendUnavailable]:
    """Each backend and precision of these that a package could run in; for a backend that has none, why."""
    for backend in backends:
        try:
            found = backend_class(backend)
        except BackendUnavailable as error:
            yield error
            continue
        reasons = {precision: found.unavailable(precision) for precision in precisions}
        for precision, reason in reasons.items():
            if reason is None:
                yield Subject(package, backend, precision, threads, cache)
        if None not in reasons.values():
            yield BackendUnavailable(
                f"{backend} cannot run here", found="; ".join(sorted(set(map(str, reasons.values()))))
            )


def measure_row(subject: Subject, verified: Path, seconds: float, *, again: bool) -> Row:
    """Verify and measure, in processes of their own; raises as ``measure_apart`` does.

    Parameters
    ----------
    verified
        Folder of the verifications.
    seconds, again
        See ``measure_apart``, ``verify_apart``.
    """
    verification = verify_apart(subject, verified, again=again)
    return Row(subject, measure_apart(subject, seconds), verification)


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
