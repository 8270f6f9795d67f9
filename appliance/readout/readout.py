"""From the model's output to an ``InferenceResult``: masks, measurements, findings, notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.domain.geometry import Grid
from appliance.domain.image import Image, ImageVolume, ProjectionImage
from appliance.domain.result import Algorithm, Finding, InferenceResult, Measurement, Segment
from appliance.errors import UnsuitableImage
from appliance.manifest.manifest import Manifest
from appliance.manifest.readout import MeasurementSpec, StructureSpec
from appliance.readout.derived import derivation_of, derived_mask, withheld_because_of_contrast
from appliance.readout.quantities import quantity_of, size_of
from appliance.readout.structures import Restore, masks_of

_STANDARD_VIEW = ("L", "F")
"""Patient Orientation of a radiograph as it is displayed: columns run to the patient's left, rows to the feet."""

_LEAST_TILT_DEGREES = 0.5


def read_out(
    output: NDArray[Any], restore: Restore, image: Image, manifest: Manifest, algorithm: Algorithm
) -> InferenceResult:
    """Read a model's output.

    Parameters
    ----------
    output
        Of the last stage, ``[1, channel, axes…]``; see ``masks_of``.
    restore
        Brings one channel back to the grid of ``image``.

    Raises
    ------
    UnsuitableImage
        ``nothing-found``, ``implausible-result``, ``unexpected-orientation``: a wrong result is worse than none.
    ModelPackageError
        The output has fewer channels than the manifest names.
    """
    readout = manifest.readout
    notes = list(readout.notes)
    if isinstance(image, ProjectionImage):
        notes.append(image.spacing_note)
        if any(structure.laterality is not None for structure in readout.structures):
            notes.extend(_check_sides(image))
    else:
        notes.extend(_geometry_notes(image.grid))
    masks = dict(zip((s.label for _, s in readout.outlined), masks_of(output, readout, restore), strict=True))
    findings: list[Finding] = []
    segments: list[Segment] = []
    for structure in readout.structures:
        if structure.derived is not None:
            assert isinstance(image, ImageVolume)  # the manifest derives structures of volumes only
            if structure.derived.native_only and image.contrast_agent:
                notes.append(withheld_because_of_contrast(structure))
                continue
            notes.append(derivation_of(structure, structure.derived, image.modality))
            masks[structure.label] = derived_mask(masks[structure.derived.within], image, structure.derived)
        mask = masks[structure.label]
        segment = len(segments) if mask.any() else None
        if segment is not None:
            segments.append(_segment(structure, mask, image))
        elif not structure.optional:
            raise UnsuitableImage(
                "nothing-found",
                f"the model did not find: {structure.label}",
                mend="Check that the image shows the body part that the model is for",
            )
        findings.append(_finding(segment, structure, mask, image, manifest))
    sizes = {label: size_of(mask, image) for label, mask in masks.items()}
    overall = tuple(
        Measurement(
            ratio.concept.code(), sizes[ratio.numerator] / sizes[ratio.denominator], ratio.unit.code(), ratio.digits
        )
        for ratio in readout.ratios
        if ratio.numerator in sizes and ratio.denominator in sizes
    )
    return InferenceResult(
        algorithm=algorithm,
        image=image,
        findings=tuple(findings),
        segments=tuple(segments),
        intended_use=manifest.intended_use,
        title=manifest.title,
        overall=overall,
        notes=tuple(notes),
    )


def _geometry_notes(grid: Grid) -> Sequence[str]:
    """What a reader must know of slices that are tilted, or not evenly spaced."""
    notes = []
    if grid.tilt_degrees > _LEAST_TILT_DEGREES:
        notes.append(f"The slices are tilted by {grid.tilt_degrees:.1f} degrees (gantry tilt).")
    if grid.places is not None:
        distances_mm = grid.slice_distances_mm
        notes.append(
            f"The distance between slices varies from {distances_mm.min():.2f} to {distances_mm.max():.2f} mm: the "
            "model saw slices interpolated linearly between neighbours, and each source slice counts with the space "
            "it stands for, halfway to its neighbours."
        )
    return notes


def _check_sides(image: ProjectionImage) -> Sequence[str]:
    """Make sure that right is right: the models learned images as they are displayed (PS3.3 section C.7.6.1.1.1)."""
    if image.patient_orientation is None:
        return ["The image does not say which side is which; the standard display of a frontal view is assumed."]
    # A direction may be qualified, such as LF or PH: its first letter is the main one.
    found = tuple(direction[0] for direction in image.patient_orientation)
    if found != _STANDARD_VIEW:
        raise UnsuitableImage(
            "unexpected-orientation",
            "the image is mirrored or rotated against the standard display, sides would be swapped",
            found="\\".join(image.patient_orientation),
            expected="L\\F in Patient Orientation (0020,0020)",
            mend="Correct the orientation at the acquisition workstation and send the image again",
        )
    return []


def _segment(structure: StructureSpec, mask: NDArray[np.bool_], image: Image) -> Segment:
    return Segment(
        label=structure.label,
        mask=mask,
        category=structure.category.code(),
        structure=structure.structure.code(),
        laterality=structure.laterality.code() if structure.laterality else None,
        color=structure.color,
        description=derivation_of(structure, structure.derived, image.modality) if structure.derived else "",
    )


def _finding(
    segment: int | None, structure: StructureSpec, mask: NDArray[np.bool_], image: Image, manifest: Manifest
) -> Finding:
    measurements = []
    for spec in structure.measurements:
        value = quantity_of(spec.quantity, mask, image)
        if value is None:
            continue
        _check_plausible(structure, spec, value)
        measurements.append(Measurement(spec.concept.code(), value, spec.unit.code(), spec.digits))
    site = structure
    if structure.derived is not None:
        # What is found in a structure lies in it: its own code says what it is, not where.
        (site,) = (s for _, s in manifest.readout.outlined if s.label == structure.derived.within)
    return Finding(
        tracking_id=f"{manifest.name} {structure.label}",
        finding=structure.structure.code(),
        site=site.structure.code(),
        laterality=structure.laterality.code() if structure.laterality else None,
        measurements=tuple(measurements),
        segment=segment,
    )


def _check_plausible(structure: StructureSpec, spec: MeasurementSpec, value: float) -> None:
    if spec.plausible is None or spec.plausible[0] <= value <= spec.plausible[1]:
        return
    raise UnsuitableImage(
        "implausible-result",
        f"the measured {spec.concept.meaning.lower()} of {structure.label} cannot be right, the result is withheld",
        found=f"{value:.{spec.digits}f} {spec.unit.value}",
        expected=f"{spec.plausible[0]:g} to {spec.plausible[1]:g}",
        mend="Check that the image is complete and shows the body part that the model is for",
    )
