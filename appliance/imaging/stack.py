"""Slices → one stack: ordered by position, and checked to be a regular one, or as irregular as the model allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from appliance.domain.geometry import Grid
from appliance.errors import UnsuitableImage
from appliance.imaging.mixture import SPLIT, repeated_position
from appliance.imaging.slices import Slice
from appliance.manifest.manifest import InputSpec

_ORIENTATION_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 0.05
"""As a fraction of the spacing."""
_ROUNDING_MM = 0.1
"""Positions in headers may be rounded to one decimal: then neighbours are off by this, and no drift adds up."""
_SAME_PLACE_MM = 1e-2
_TILT_TOLERANCE = np.sin(np.radians(0.5))


def ordered(slices: Sequence[Slice]) -> list[Slice]:
    """Order slices along the normal of their planes (never by Instance Number), from low to high.

    Raises
    ------
    UnsuitableImage
        ``mixed-size``, ``mixed-orientation``.
    """
    first = slices[0]
    shape = (first.file.dataset.Rows, first.file.dataset.Columns)
    if any((s.file.dataset.Rows, s.file.dataset.Columns) != shape for s in slices):
        raise UnsuitableImage("mixed-size", "the slices have different numbers of rows or columns", mend=SPLIT)
    spacings = np.array([s.spacing_mm for s in slices])
    if not np.allclose(spacings, first.spacing_mm, rtol=1e-3, atol=0):
        raise UnsuitableImage("mixed-size", "the slices have different pixel spacings", mend=SPLIT)
    orientations = np.array([s.orientation for s in slices])
    if not np.allclose(orientations, first.orientation, rtol=0, atol=_ORIENTATION_TOLERANCE):
        raise UnsuitableImage(
            "mixed-orientation", "the slices are not parallel", found="a localizer, or two stacks in one", mend=SPLIT
        )
    heights = _heights(slices)
    return [slices[index] for index in np.argsort(heights, kind="stable")]


def grid_of(slices: Sequence[Slice], spec: InputSpec) -> Grid:
    """Return the grid of ordered slices, or refuse them.

    Raises
    ------
    UnsuitableImage
        The reasons of ``repeated_position``; ``too-few-slices``, ``slice-gap``, ``uneven-spacing``, ``gantry-tilt``,
        ``coarse-spacing``, ``small-extent``.
    """
    count = len(slices)
    steps = np.diff(_heights(slices))
    repeated = int(np.sum(steps < _SAME_PLACE_MM))
    if repeated:
        raise repeated_position(slices, repeated)
    if count < max(2, spec.min_slices):
        raise UnsuitableImage(
            "too-few-slices",
            "the stack is too short for this model",
            found=f"{count} slices",
            expected=f"at least {max(2, spec.min_slices)}",
        )
    first, last = slices[0], slices[-1]
    step = (last.position_mm - first.position_mm) / (count - 1)
    normal = np.cross(first.orientation[0], first.orientation[1])
    sine = float(np.linalg.norm(np.cross(step, normal)) / np.linalg.norm(step))
    even = _are_even(steps, sine, spec)
    if sine > _TILT_TOLERANCE and not spec.allow_tilt:
        raise UnsuitableImage(
            "gantry-tilt",
            "the stack is sheared: its slices are tilted against the direction in which they follow each other",
            found=_tilt(sine),
            expected="a stack without tilt",
            mend="Reconstruct it without tilt, or use a model that takes tilted stacks",
        )
    places = np.arange(count, dtype=np.float64)
    if not even:
        places[1:] = np.cumsum(steps) * ((count - 1) / steps.sum())
    _check_line(slices, first.position_mm + places[:, None] * step, float(np.median(steps)))
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = first.orientation[1] * first.spacing_mm[0]
    affine[:3, 2] = first.orientation[0] * first.spacing_mm[1]
    affine[:3, 3] = first.position_mm
    shape = (count, int(first.file.dataset.Rows), int(first.file.dataset.Columns))
    grid = Grid(shape, affine, None if even else places)
    _check_coverage(grid, spec)
    return grid


def _check_line(slices: Sequence[Slice], expected: NDArray[np.float64], spacing: float) -> None:
    off_mm = float(np.abs(np.array([s.position_mm for s in slices]) - expected).max())
    if off_mm > max(_ROUNDING_MM, _SPACING_TOLERANCE * spacing * 2):
        raise UnsuitableImage(
            "uneven-spacing",
            "the slices do not lie on a straight line with even spacing",
            found=f"a slice {off_mm:.2f} mm beside its place",
            mend="Reconstruct the series with even spacing",
        )


def _tilt(sine: float) -> str:
    return f"{np.degrees(np.arcsin(min(1.0, sine))):.1f}° of gantry tilt"


def _heights(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """Distance of each slice along the common normal, in mm."""
    normal = np.cross(slices[0].orientation[0], slices[0].orientation[1])
    return np.array([s.position_mm for s in slices]) @ normal


def _are_even(steps: NDArray[np.float64], sine: float, spec: InputSpec) -> bool:
    """Whether neighbours are equally far apart; refuses stacks with holes, and varying ones unless ``spec`` has them.

    A hole is one distance that is a multiple of the others. Where the distance may vary, several in a row are taken
    for what they mostly are: another part of the protocol, with thicker slices.
    """
    spacing = float(np.median(steps))
    tolerance = max(_SPACING_TOLERANCE * spacing, min(_ROUNDING_MM, 0.25 * spacing))
    uneven = np.abs(steps - spacing) > tolerance * 1.001
    if not np.any(uneven):
        return True
    multiples = steps[uneven] / spacing
    whole = np.round(multiples)
    in_a_row = bool(np.any(uneven[1:] & uneven[:-1])) and spec.allow_variable_spacing
    if np.all(whole >= 2) and np.all(np.abs(multiples - whole) < 0.1) and np.mean(uneven) < 0.2 and not in_a_row:
        raise UnsuitableImage(
            "slice-gap",
            "slices are missing from the stack",
            found=f"{int(np.sum(whole - 1))} missing in {int(np.sum(uneven))} gap(s)",
            expected=f"a slice every {spacing:.2f} mm",
            mend="Send the missing images; the series then runs again by itself",
        )
    if spec.allow_variable_spacing:
        return False
    raise UnsuitableImage(
        "uneven-spacing",
        "the distance between slices varies",
        found=f"{steps.min():.2f} to {steps.max():.2f} mm" + (f", and {_tilt(sine)}" if sine > _TILT_TOLERANCE else ""),
        expected="even spacing",
        mend="Reconstruct the series with even spacing",
    )


def _check_coverage(grid: Grid, spec: InputSpec) -> None:
    _, row_mm, column_mm = grid.spacing_mm
    distances_mm = grid.slice_distances_mm
    for found, limit, what in (
        (float(distances_mm.max()), spec.max_slice_spacing_mm, "slice spacing"),
        (max(row_mm, column_mm), spec.max_pixel_spacing_mm, "pixel spacing"),
    ):
        if limit is not None and found > limit * 1.001:
            raise UnsuitableImage(
                "coarse-spacing",
                f"the {what} is too coarse for this model",
                found=f"{found:.2f} mm",
                expected=f"at most {limit:g} mm",
            )
    lengths_mm = (float(distances_mm.mean()), row_mm, column_mm)
    extent = min(count * mm for count, mm in zip(grid.shape, lengths_mm, strict=True))
    if spec.min_extent_mm is not None and extent < spec.min_extent_mm:
        raise UnsuitableImage(
            "small-extent",
            "the stack does not cover enough",
            found=f"{extent:.0f} mm along its shortest axis",
            expected=f"at least {spec.min_extent_mm:g} mm",
        )
