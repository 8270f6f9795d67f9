"""Stacks in which the distance between slices varies: slices at equal distances for the model, and the way back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.domain.geometry import Grid

_PER_INTERVAL = 4
"""At most so many even slices for each of the source: two that nearly coincide must not ask for all memory."""
_MOST_SAMPLES = 512**3
"""Of the even stack, unless the source itself has more."""


class EvenStack:
    """The slices at equal distances that stand for those of a grid whose distances vary.

    The first and the last are those of the source. The distance is the least of the source, so that nothing which the
    source tells apart is lost, but there are at most four slices for each of the source, and at most 512³ samples
    unless the source has more.

    Parameters
    ----------
    grid
        With ``places``.

    Attributes
    ----------
    affine
        float64 ``[4, 4]``: (slice, row, column, 1) of the even stack → LPS mm; sheared as the source is.
    """

    def __init__(self, grid: Grid) -> None:
        assert grid.places is not None
        self._places = grid.places
        length = float(grid.places[-1])
        intervals = length / float(np.diff(grid.places).min())
        most = max(grid.shape[0], _MOST_SAMPLES // (grid.shape[1] * grid.shape[2]))
        self._count = min(int(np.ceil(intervals - 1e-6)) + 1, _PER_INTERVAL * (grid.shape[0] - 1) + 1, most)
        self._step = length / (self._count - 1)
        self.affine: NDArray[np.float64] = grid.affine.copy()
        self.affine[:3, 0] *= self._step

    def spread(self, voxels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Source voxels → float32 ``[slice, row, column]``, a copy: linear between the two nearest source slices."""
        places = np.arange(self._count) * self._step
        low = np.clip(np.searchsorted(self._places, places, side="right") - 1, 0, self._places.size - 2)
        weights = (places - self._places[low]) / (self._places[low + 1] - self._places[low])
        even = np.empty((self._count, *voxels.shape[1:]), dtype=np.float32)
        for index, (below, weight) in enumerate(zip(low.tolist(), weights.tolist(), strict=True)):
            _blend(voxels[below], voxels[below + 1], weight, even[index])
        return even

    def gather(self, array: NDArray[Any], *, interpolate: bool) -> NDArray[Any]:
        """An array on the even stack → on the source slices: the nearest slice, or linear between two (float32)."""
        positions = np.clip(self._places / self._step, 0, self._count - 1)
        if not interpolate:
            return array.take(np.rint(positions).astype(np.intp), axis=0)
        low = np.minimum(positions.astype(np.intp), self._count - 2)
        result = np.empty((positions.size, *array.shape[1:]), dtype=array.dtype)
        for index, (below, weight) in enumerate(zip(low.tolist(), (positions - low).tolist(), strict=True)):
            _blend(array[below], array[below + 1], weight, result[index])
        return result


def _blend(below: NDArray[Any], above: NDArray[Any], weight: float, into: NDArray[Any]) -> None:
    np.multiply(below, np.float32(1.0 - weight), out=into)
    into += np.float32(weight) * above
