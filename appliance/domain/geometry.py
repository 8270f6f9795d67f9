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
    """A regular grid of voxels.

    Attributes
    ----------
    shape
        Number of slices, rows and columns.
    affine
        float64 ``[4, 4]``: maps the homogeneous index ``(slice, row, column, 1)`` of a voxel's centre to LPS mm.
        The grid may be sheared (gantry tilt); ``is_orthogonal`` tells.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.affine.shape != (4, 4):
            raise ValueError(f"affine must be 4×4, is {self.affine.shape}")
        if abs(float(np.linalg.det(self.affine[:3, :3]))) < 1e-9:
            raise ValueError("affine is singular: two axes of the grid are parallel")
        self.affine.flags.writeable = False

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbours along the slice, row and column axis, in mm."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm³; true for sheared grids too (the determinant, not the product of spacings)."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))

    @property
    def is_orthogonal(self) -> bool:
        """Whether the three axes are perpendicular to within 0.1 degree."""
        axes = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        cosines = axes.T @ axes
        return bool(np.all(np.abs(cosines[np.triu_indices(3, 1)]) < np.sin(np.radians(0.1))))

    def to_patient(self, index: NDArray[np.floating] | tuple[float, float, float]) -> NDArray[np.float64]:
        """Map indices ``[..., 3]`` (slice, row, column) to LPS mm ``[..., 3]``."""
        points = np.asarray(index, dtype=np.float64)
        return points @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, point_mm: NDArray[np.floating] | tuple[float, float, float]) -> NDArray[np.float64]:
        """Map LPS mm ``[..., 3]`` to fractional indices ``[..., 3]`` (slice, row, column)."""
        points = np.asarray(point_mm, dtype=np.float64)
        return (points - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T
