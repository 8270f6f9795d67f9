"""The outline of a mask as polylines, for objects that keep outlines as lines and not as pixels."""

from __future__ import annotations

from typing import Final

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray

MOST_POINTS: Final = 8000
"""Of one polyline: its coordinates, of four bytes each, must fit a length of 16 bits (PS3.5 section 7.1.2)."""


def contours(mask: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
    """Trace the edges of a mask, the outer ones and those of holes.

    Parameters
    ----------
    mask
        bool ``[row, column]``.

    Returns
    -------
    list[NDArray[np.float32]]
        Each ``[points, 2]``: column and row from the upper left *corner* of the first pixel (PS3.3 section C.10.5.1.2:
        its lower right corner is 1, 1), at most ``MOST_POINTS``. One whose ends meet is closed; an edge that takes
        more points comes in several pieces that are not.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return []
    columns = np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    # With a border of nothing, edges close where the mask touches the edge of the image.
    generator = contour_generator(z=np.pad(part, 1).astype(np.float32), name="serial", line_type=LineType.Separate)
    # A pixel's centre is half a pixel from its corner, and the border moved it by one.
    corner = np.array((left - 0.5, top - 0.5))
    pieces: list[NDArray[np.float32]] = []
    for line in generator.lines(0.5):
        points = _without_straight(np.asarray(line)) + corner
        starts = range(0, len(points) - 1, MOST_POINTS - 1)
        pieces += [points[start : start + MOST_POINTS].astype(np.float32) for start in starts]
    return pieces


def is_closed(points: NDArray[np.float32]) -> bool:
    """Say whether a polyline ends where it begins."""
    return bool(len(points) > 2 and np.array_equal(points[0], points[-1]))


def _without_straight(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out the points on straight stretches."""
    steps = np.diff(points, axis=0)
    turns = steps[1:, 0] * steps[:-1, 1] != steps[1:, 1] * steps[:-1, 0]
    return points[np.concatenate(([True], turns, [True]))]
