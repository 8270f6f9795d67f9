"""Volumes on a grid of cubes along the axes of the patient, however the slices were taken."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import UnsuitableImage
from appliance.imaging.plane_by_plane import PlaneByPlane

DIRECTIONS = {
    "L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1),
}  # fmt: skip
"""Axis of the patient system LPS, and the sign in which it increases."""

_MAX_SAMPLES = 512**3


class PatientGrid:
    """The smallest grid of cubes that covers a volume, oblique or sheared as this may be; their centres coincide.

    Parameters
    ----------
    shape
        Of the source, ``[slice, row, column]``.
    affine
        float64 ``[4, 4]``: (slice, row, column, 1) of the source → LPS mm.
    spacing_mm
        Edge of a cube.
    axes
        Direction in which each axis of the grid increases, three of L, R, P, A, S, I, e.g. ``LIA``.

    Attributes
    ----------
    shape
        Samples per axis.
    affine
        float64 ``[4, 4]``: indices on this grid → LPS mm.

    Raises
    ------
    UnsuitableImage
        ``too-large`` when it would take more than 512³ samples.
    """

    def __init__(self, shape: tuple[int, ...], affine: NDArray[np.float64], *, spacing_mm: float, axes: str) -> None:
        self._source = shape
        steps = np.zeros((3, 3))
        for column, letter in enumerate(axes):
            axis, sign = DIRECTIONS[letter]
            steps[axis, column] = sign * spacing_mm
        to_steps = np.linalg.inv(steps) @ affine[:3, :3]
        corners = np.stack(np.meshgrid(*[(-0.5, size - 0.5) for size in shape], indexing="ij"), axis=-1).reshape(-1, 3)
        covered = corners @ to_steps.T
        low, high = covered.min(axis=0), covered.max(axis=0)
        extent = np.ceil(high - low - 1e-6)
        if not np.prod(extent) <= _MAX_SAMPLES:
            raise UnsuitableImage(
                "too-large",
                f"the image has no believable size at {spacing_mm:g} mm",
                found=" × ".join(f"{count:.0f}" for count in extent),
                expected=f"at most {_MAX_SAMPLES} samples",
            )
        self.shape: tuple[int, ...] = tuple(max(1, int(count)) for count in extent)
        first = (low + high - (np.array(self.shape) - 1)) / 2
        self.affine: NDArray[np.float64] = np.eye(4)
        self.affine[:3, :3], self.affine[:3, 3] = steps, affine[:3, 3] + steps @ first
        self._to_source = np.linalg.inv(to_steps)
        self._offset = self._to_source @ first
        self._from_source, self._offset_back = to_steps, -first

    def resample(self, voxels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Source voxels → float32 on this grid, linear between the eight nearest; the least value outside the source.

        What is finer than the cubes is not averaged, as FreeSurfer's ``mri_convert --conform`` does not either: the
        networks that want this step were trained on its output.
        """
        outside = float(voxels.min())
        planes = PlaneByPlane(self._to_source, self._offset, self.shape)
        if planes.possible:
            return planes.resample(voxels, outside)
        resampled: NDArray[np.float32] = ndimage.affine_transform(
            voxels, self._to_source, self._offset, output_shape=self.shape, output=np.float32, order=1,
            mode="constant", cval=outside,
        )  # fmt: skip
        return resampled

    def restore(self, array: NDArray[Any], *, interpolate: bool) -> NDArray[Any]:
        """An array on this grid → at the centres of the source voxels: the nearest sample, or linear (float32)."""
        if interpolate:
            linear: NDArray[Any] = ndimage.affine_transform(
                array, self._from_source, self._offset_back, output_shape=self._source, order=1, mode="nearest"
            )
            return linear
        # Five times as fast as affine_transform of order 0: an index is a sum of one part for each axis of the source.
        restored = np.empty(self._source, dtype=array.dtype)
        flat = np.ascontiguousarray(array).reshape(-1)
        strides = (self.shape[1] * self.shape[2], self.shape[2], 1)
        rows, columns = np.arange(self._source[1]), np.arange(self._source[2])
        for number in range(self._source[0]):
            index = np.zeros(self._source[1:], dtype=np.int32)
            for axis, (size, stride) in enumerate(zip(self.shape, strides, strict=True)):
                by_slice, by_row, by_column = self._from_source[axis]
                fixed = by_slice * number + self._offset_back[axis] + 0.5
                nearest = np.add.outer(
                    (by_row * rows + fixed).astype(np.float32), (by_column * columns).astype(np.float32)
                ).astype(np.int32)
                np.clip(nearest, 0, size - 1, out=nearest)
                nearest *= stride
                index += nearest
            np.take(flat, index, out=restored[number])
        return restored
