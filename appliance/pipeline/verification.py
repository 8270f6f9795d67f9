"""Verification: the golden images of a package, judged on this machine's backend and compared with the reference.

The reference is ONNX Runtime in float32 on the CPU of the same machine. What is compared is what a reader would see:
the masks of the structures and their sizes, beside the raw output of the last network. A model that has not passed
does not serve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from appliance.domain.result import InferenceResult
from appliance.manifest.golden import Expectation, Parity
from appliance.manifest.manifest import Manifest
from appliance.readout.agreement import dice, max_difference, size_difference


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Agreement(_Figures):
    """How one structure's mask agrees with the reference's.

    Attributes
    ----------
    size_difference
        Signed, as a fraction of the reference's size.
    """

    structure: str
    dice: float
    size_difference: float


class Measured(_Figures):
    """A measurement of a golden image, and what the manifest expects."""

    structure: str
    quantity: str
    value: float
    expected: float
    tolerance: float


class CaseReport(_Figures):
    """What came of one golden image.

    Attributes
    ----------
    output_difference
        Largest absolute difference of any element of the last network's output; ``None`` where the outputs are labels.
    failures
        What was beyond its tolerance, in words; empty when the case passed.
    """

    case: str
    output_difference: float | None
    agreements: tuple[Agreement, ...]
    measured: tuple[Measured, ...]
    failures: tuple[str, ...]


class Verification(_Figures):
    """What came of all golden images of a package, on one backend of one machine.

    Attributes
    ----------
    model
        ``name/version``.
    backend
        Name and version.
    verified_at
        Seconds since 1970.
    """

    model: str
    backend: str
    precision: str
    device: str
    verified_at: float
    cases: tuple[CaseReport, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """Everything that was beyond its tolerance."""
        return tuple(f"{case.case}: {failure}" for case in self.cases for failure in case.failures)

    @property
    def passed(self) -> bool:
        """Whether the model may serve."""
        return not self.failures

    @property
    def least_dice(self) -> float | None:
        """The worst overlap of any structure in any case; ``None`` without one."""
        return min((a.dice for case in self.cases for a in case.agreements), default=None)

    @property
    def largest_size_difference(self) -> float | None:
        """The worst difference of size, without its sign, as a fraction; ``None`` without one."""
        return max((abs(a.size_difference) for case in self.cases for a in case.agreements), default=None)

    def summary(self) -> str:
        """One phrase, as results and tables state it."""
        if not self.cases:
            return "no golden cases"
        figures = f"{len(self.cases)} golden case(s)"
        if self.least_dice is not None and self.largest_size_difference is not None:
            # Rounded to the worse side: 0.99996 is no 1.
            dice = math.floor(self.least_dice * 1e4) / 1e4
            size = math.ceil(self.largest_size_difference * 1e4) / 1e4
            figures += f", Dice at least {dice:.4f}, sizes within {size:.2%}"
        return f"{'passed' if self.passed else 'failed'}: {figures}"


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What a model made of one golden image; ``refusal`` says why when it made nothing of it."""

    output: NDArray[Any] | None
    result: InferenceResult | None
    refusal: str | None = None

    @property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Label of each structure that was found → its mask."""
        return {} if self.result is None else {segment.label: segment.mask for segment in self.result.segments}


def compare(manifest: Manifest, candidate: Mapping[str, Judged], reference: Mapping[str, Judged]) -> list[CaseReport]:
    """Compare the golden images of a package, each given by the name of its case.

    Parameters
    ----------
    reference
        What ONNX Runtime in float32 made of them; the same mapping when it is the candidate itself.
    """
    return [
        compare_case(manifest, case.name, case.expect, candidate[case.name], reference[case.name])
        for case in manifest.golden
    ]


def compare_case(
    manifest: Manifest, name: str, expect: Sequence[Expectation], candidate: Judged, reference: Judged
) -> CaseReport:
    """Compare one image; ``expect`` is empty when only the agreement counts."""
    failures = [
        f"{who} refuses it: {judged.refusal}"
        for who, judged in {"the backend": candidate, "the reference": reference}.items()
        if judged.refusal is not None
    ]
    if candidate.result is None or reference.result is None:
        return CaseReport(case=name, output_difference=None, agreements=(), measured=(), failures=tuple(failures))
    agreements = [_agreement(label, candidate.masks, reference.masks) for label in _labels(candidate, reference)]
    difference = _output_difference(candidate.output, reference.output)
    failures += _beyond(manifest.parity, agreements, difference)
    measured = []
    for expectation in expect:
        value = _value(manifest, expectation, candidate.result)
        if value is None:
            failures.append(f"{expectation.structure}: no {expectation.quantity} was measured")
            continue
        measured.append(
            Measured(
                structure=expectation.structure,
                quantity=expectation.quantity,
                value=value,
                expected=expectation.value,
                tolerance=expectation.tolerance,
            )
        )
        if abs(value - expectation.value) > expectation.tolerance * abs(expectation.value):
            failures.append(
                f"{expectation.structure}: {expectation.quantity} is {value:.4g}, "
                f"expected {expectation.value:.4g} within {expectation.tolerance:.1%}"
            )
    return CaseReport(
        case=name,
        output_difference=difference,
        agreements=tuple(agreements),
        measured=tuple(measured),
        failures=tuple(failures),
    )


def _labels(candidate: Judged, reference: Judged) -> list[str]:
    """Labels of both, in the order of the reference; a structure that only one of them found counts as well."""
    return [*reference.masks, *(label for label in candidate.masks if label not in reference.masks)]


def _agreement(
    label: str, candidate: Mapping[str, NDArray[np.bool_]], reference: Mapping[str, NDArray[np.bool_]]
) -> Agreement:
    known = candidate.get(label, reference.get(label))
    assert known is not None
    empty = np.zeros_like(known)
    one, other = candidate.get(label, empty), reference.get(label, empty)
    return Agreement(structure=label, dice=dice(one, other), size_difference=size_difference(one, other))


def _output_difference(candidate: NDArray[Any] | None, reference: NDArray[Any] | None) -> float | None:
    if candidate is None or reference is None or candidate.shape != reference.shape:
        return None
    if candidate.dtype.kind != "f" or reference.dtype.kind != "f":
        return None
    return max_difference(candidate, reference)


def _beyond(parity: Parity, agreements: Sequence[Agreement], difference: float | None) -> list[str]:
    """What is beyond the tolerances of the package."""
    failures = []
    for agreement in agreements:
        if agreement.dice < parity.min_dice:
            failures.append(f"{agreement.structure}: Dice {agreement.dice:.4f}, at least {parity.min_dice:g} is wanted")
        if abs(agreement.size_difference) > parity.max_size_difference:
            failures.append(
                f"{agreement.structure}: size differs by {agreement.size_difference:+.2%}, "
                f"at most {parity.max_size_difference:.2%} is allowed"
            )
    limit = parity.max_output_difference
    if limit is not None and difference is not None and difference > limit:
        failures.append(f"the output differs by {difference:.3g}, at most {limit:g} is allowed")
    return failures


def _value(manifest: Manifest, expectation: Expectation, result: InferenceResult) -> float | None:
    """The measurement that an expectation names."""
    (structure,) = (s for s in manifest.readout.structures if s.label == expectation.structure)
    wanted = [
        (spec.concept.code(), spec.unit.code())
        for spec in structure.measurements
        if spec.quantity == expectation.quantity
    ]
    for finding in result.findings:
        if finding.tracking_id == f"{manifest.name} {structure.label}":
            for measurement in finding.measurements:
                if (measurement.concept, measurement.unit) in wanted:
                    return measurement.value
    return None
