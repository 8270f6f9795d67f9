"""The part of a volume that holds the patient, in one of few sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import UnsuitableImage
from appliance.manifest.steps import CropToForeground

_COARSE = 4


class ForegroundBox:
    """A box around the largest connected part of what is above a level; it may reach beyond the array.

    Parameters
    ----------
    array
        ``[axes…]``.
    least, most
        Samples per axis that the box must and may have; multiples of ``step.multiple``.

    Attributes
    ----------
    shape
        Samples per axis of the box.

    Raises
    ------
    UnsuitableImage
        ``nothing-found`` when nothing is above the level.
    """

    def __init__(
        self, array: NDArray[Any], step: CropToForeground, least: tuple[int, ...], most: tuple[int, ...]
    ) -> None:
        self._array_shape = array.shape
        starts, sizes = [], []
        for (start, stop), low, high, samples in zip(
            _extents(array, step.level), least, most, array.shape, strict=True
        ):
            wanted = -(-(stop - start + 2 * step.margin) // step.multiple) * step.multiple
            size = min(max(wanted, low), high)
            if stop - start > size and step.keep != "middle":
                first = start - step.margin if step.keep == "start" else stop + step.margin - size
            else:
                first = (start + stop - size) // 2
            # Rather more of the image than nothing beyond its edge.
            spare = samples - size
            starts.append(min(max(first, 0), spare) if spare >= 0 else spare // 2)
            sizes.append(size)
        self.shape = tuple(sizes)
        bounds = list(zip(starts, sizes, array.shape, strict=True))
        self._of_array = tuple(slice(max(0, a), min(n, a + size)) for a, size, n in bounds)
        self._of_box = tuple(slice(max(0, -a), min(n, a + size) - a) for a, size, n in bounds)

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """What is in the box; beyond the edge of the array, its least value."""
        if self._array_holds_all():
            return array[self._of_array]
        box = np.full(self.shape, array.min(), dtype=array.dtype)
        box[self._of_box] = array[self._of_array]
        return box

    def put_back(self, box: NDArray[Any]) -> NDArray[Any]:
        """The whole array, 0 outside the box."""
        array = np.zeros(self._array_shape, dtype=box.dtype)
        array[self._of_array] = box[self._of_box]
        return array

    def _array_holds_all(self) -> bool:
        return all(part.stop - part.start == size for part, size in zip(self._of_box, self.shape, strict=True))


def _extents(array: NDArray[Any], level: float) -> list[tuple[int, int]]:
    """First sample and the one after the last, along each axis, of the largest connected part above the level.

    Seen at every fourth sample, which takes a hundredth of the time and parts noise from the patient; what may lie
    between there and the next one that was looked at belongs to it.
    """
    parts, count = ndimage.label(array[(slice(None, None, _COARSE),) * array.ndim] > level)
    if count == 0:
        raise UnsuitableImage(
            "nothing-found",
            "the image is empty",
            found=f"nothing above {level:g}",
            mend="Check that the series shows the body part that the model is for",
        )
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    box = ndimage.find_objects(parts)[int(sizes.argmax()) - 1]
    return [
        (max(0, part.start * _COARSE - _COARSE + 1), min(samples, part.stop * _COARSE))
        for part, samples in zip(box, array.shape, strict=True)
    ]
