"""Linear resampling plane by plane, for grids that are turned by quarters and sheared along one axis at most.

Almost all CT lies like that on the patient's axes, tilted gantry or not. A point is then found by one axis after the
other, in planes that stay in the processor's cache: five times as fast as looking at eight neighbours for each sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NOTHING = 1e-7
"""In samples of the source, over the whole target: less than any position is known to."""


class PlaneByPlane:
    """Where each sample of a target lies in a source: at ``matrix @ index + offset``.

    Parameters
    ----------
    matrix, offset
        float64 ``[3, 3]`` and ``[3]``, from indices of the target to those of the source.
    shape
        Of the target.

    Attributes
    ----------
    possible
        Whether the grids lie as this way wants it; otherwise there is nothing to call.
    """

    def __init__(
        self, matrix: NDArray[np.floating[Any]], offset: NDArray[np.floating[Any]], shape: Sequence[int]
    ) -> None:
        self._matrix, self._offset, self._shape = matrix, offset, tuple(shape)
        self._order = self._find_order(np.abs(matrix) * np.array(shape) > _NOTHING)
        self.possible = self._order is not None

    def resample(self, voxels: NDArray[np.float32], outside: float) -> NDArray[np.float32]:
        """Return float32 of the target's shape, linear between the eight nearest; ``outside`` beyond the source's
        first and last samples, as ``scipy.ndimage.affine_transform`` has it in its mode ``constant``.
        """
        assert self._order is not None
        (source, target), (first, first_target), (second, second_target) = self._order
        turned = np.moveaxis(voxels, source, 0)  # planes [first, second], these in ascending order
        resampled = np.full(self._shape, outside, np.float32)
        planes = np.moveaxis(resampled, (target, first_target, second_target), (0, 1, 2))
        places = _Places(self._along(source, target), voxels.shape[source])
        for number in np.flatnonzero(places.inside):
            below = turned[places.low[number]]
            plane = turned[places.high[number]] - below
            plane *= places.weight[number]
            plane += below
            whole = None
            for axis, (along, goal) in enumerate(((first, first_target), (second, second_target))):
                shift = self._matrix[along, target] * number
                found = _Places(self._along(along, goal, shift), voxels.shape[along])
                plane = found.pick(plane, axis)
                inside = found.inside if axis else found.inside[:, np.newaxis]
                whole = inside if whole is None else whole & inside
            np.copyto(planes[number], plane, where=whole)
        return resampled

    def _along(self, source: int, target: int, shift: float = 0.0) -> NDArray[np.float64]:
        steps: NDArray[np.float64] = np.arange(self._shape[target]) * self._matrix[source, target]
        steps += shift + self._offset[source]
        return steps

    @staticmethod
    def _find_order(depends: NDArray[np.bool_]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None:
        """Pairs of source and target axis: the one whose planes are walked through, and the two within a plane."""
        for walked in range(3):
            others = [axis for axis in range(3) if axis != walked]
            targets = np.flatnonzero(depends[walked])
            if targets.size != 1:
                continue
            target = int(targets[0])
            within = [np.flatnonzero(np.delete(depends[axis], target)) for axis in others]
            if any(found.size != 1 for found in within) or within[0][0] == within[1][0]:
                continue
            left = [axis for axis in range(3) if axis != target]
            goals = [left[int(found[0])] for found in within]
            return (walked, target), (others[0], goals[0]), (others[1], goals[1])
        return None


class _Places:
    """Positions along an axis of ``size`` samples: between which two each lies, and how far on."""

    def __init__(self, positions: NDArray[np.float64], size: int) -> None:
        self.inside: NDArray[np.bool_] = (positions >= 0) & (positions <= size - 1)
        self.low = np.clip(np.floor(positions), 0, size - 1).astype(np.intp)
        self.high = np.minimum(self.low + 1, size - 1)
        self.weight = np.clip(positions - self.low, 0, 1).astype(np.float32)

    def pick(self, plane: NDArray[Any], axis: int) -> NDArray[Any]:
        below = plane.take(self.low, axis=axis)
        picked = plane.take(self.high, axis=axis)
        picked -= below
        picked *= self.weight if axis else self.weight[:, np.newaxis]
        picked += below
        return picked
