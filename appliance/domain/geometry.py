"""Where voxels lie in the patient.

Arrays of voxels are indexed ``[slice, row, column]`` (base 0). Coordinates are millimetres in the DICOM patient
system LPS: x to the patient's left, y to the back, z to the head (PS3.3 section C.7.6.2.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A grid of voxels: parallel slices that follow each other on a straight line.

    Attributes
    ----------
    shape
        Number of slices, rows and columns.
    affine
        float64 ``[4, 4]``: maps ``(place, row, column, 1)`` of a voxel's centre to LPS mm. The place of a slice is
        its index where slices are evenly spaced. The grid may be sheared (gantry tilt); ``is_orthogonal`` tells.
    places
        float64 ``[slices]``, ascending from 0: the place of each slice, in multiples of the affine's first column,
        where the distance between slices varies; ``None`` where it does not.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    places: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.affine.shape != (4, 4):
            raise ValueError(f"affine must be 4×4, is {self.affine.shape}")
        if abs(float(np.linalg.det(self.affine[:3, :3]))) < 1e-9:
            raise ValueError("affine is singular: two axes of the grid are parallel")
        self.affine.flags.writeable = False
        if self.places is None:
            return
        if self.places.shape != (self.shape[0],) or self.shape[0] < 2:
            raise ValueError(f"{self.shape[0]} slices have {self.places.shape} places")
        if self.places[0] != 0 or not np.all(np.diff(self.places) > 0):
            raise ValueError("places must ascend from 0")
        self.places.flags.writeable = False

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbours along the slice, row and column axis, in mm; the mean one where slices vary."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        stretch = 1.0 if self.places is None else float(self.places[-1]) / (self.shape[0] - 1)
        return float(lengths[0]) * stretch, float(lengths[1]), float(lengths[2])

    @property
    def slice_distances_mm(self) -> NDArray[np.float64]:
        """float64 ``[slices - 1]``: from the plane of each slice to that of the next, perpendicular to both."""
        places = np.arange(self.shape[0], dtype=np.float64) if self.places is None else self.places
        return np.diff(places) * abs(float(self.affine[:3, 0] @ self._normal()))

    @property
    def tilt_degrees(self) -> float:
        """Angle between the direction in which slices follow each other and the normal of their planes."""
        along = self.affine[:3, 0] / np.linalg.norm(self.affine[:3, 0])
        sine = float(np.linalg.norm(np.cross(along, self._normal())))
        return float(np.degrees(np.arcsin(min(1.0, sine))))

    @property
    def voxel_volumes_mm3(self) -> NDArray[np.float64]:
        """float64 ``[slices]``: the volume of one voxel of each slice; true for sheared grids too (the determinant).

        A slice reaches halfway to its neighbours, the first and the last as far outward as inward: so that the voxels
        fill the stack once, whatever the nominal Slice Thickness, and slices that overlap are not counted twice.
        """
        widths = np.ones(self.shape[0])
        if self.places is not None:
            steps = np.diff(self.places)
            widths = (np.append(steps[0], steps) + np.append(steps, steps[-1])) / 2
        return widths * abs(float(np.linalg.det(self.affine[:3, :3])))

    @property
    def slice_widths_mm(self) -> NDArray[np.float64]:
        """float64 ``[slices]``: thickness of the space that each slice stands for, perpendicular to its plane."""
        pixel_mm2 = float(np.linalg.norm(np.cross(self.affine[:3, 1], self.affine[:3, 2])))
        return self.voxel_volumes_mm3 / pixel_mm2

    @property
    def in_plane_offsets(self) -> NDArray[np.float64]:
        """float64 ``[slices, 2]``: by how many rows and columns a tilt moves each slice in its plane, from the first.

        What lies at row ``r`` of slice ``i`` has perpendicular to it row ``r + offsets[i, 0] - offsets[j, 0]`` of slice
        ``j``.
        """
        places = np.arange(self.shape[0], dtype=np.float64) if self.places is None else self.places
        step, rows, columns = self.affine[:3, :3].T
        return np.outer(places, [step @ rows / (rows @ rows), step @ columns / (columns @ columns)])

    @property
    def is_orthogonal(self) -> bool:
        """Whether the three axes are perpendicular to within 0.1 degree."""
        axes = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        cosines = axes.T @ axes
        return bool(np.all(np.abs(cosines[np.triu_indices(3, 1)]) < np.sin(np.radians(0.1))))

    def to_patient(self, index: NDArray[np.floating] | tuple[float, float, float]) -> NDArray[np.float64]:
        """Map indices ``[..., 3]`` (slice, row, column) to LPS mm ``[..., 3]``; between slices linearly."""
        points = np.array(index, dtype=np.float64)
        if self.places is not None:
            points[..., 0] = _piecewise(points[..., 0], np.arange(self.shape[0], dtype=np.float64), self.places)
        return points @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, point_mm: NDArray[np.floating] | tuple[float, float, float]) -> NDArray[np.float64]:
        """Map LPS mm ``[..., 3]`` to fractional indices ``[..., 3]`` (slice, row, column)."""
        points = np.asarray(point_mm, dtype=np.float64)
        index: NDArray[np.float64] = (points - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T
        if self.places is not None:
            index[..., 0] = _piecewise(index[..., 0], self.places, np.arange(self.shape[0], dtype=np.float64))
        return index

    def _normal(self) -> NDArray[np.float64]:
        normal = np.cross(self.affine[:3, 1], self.affine[:3, 2])
        return normal / np.linalg.norm(normal)


def _piecewise(x: NDArray[np.float64], knots: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear between knots, and beyond the outer ones as between the last two."""
    piece = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, knots.size - 2)
    share = (x - knots[piece]) / (knots[piece + 1] - knots[piece])
    return np.asarray(values[piece] + share * (values[piece + 1] - values[piece]))
