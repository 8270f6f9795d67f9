"""Intensities brought to the range that a network was trained on. All here write into the array that they are given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from appliance.errors import UnsuitableImage
from appliance.imaging.quantiles import quantile

_CHECK = "Check the acquisition and the transfer; send the image again"


def scale_robust_max(array: NDArray[np.float32], quantile_of_others: float, maximum: float) -> None:
    """Map the least value to 0 and the robust maximum to ``maximum``, linearly, and clip what lies outside.

    The robust maximum is exceeded by a share of ``1 - quantile_of_others`` of the samples that are not 0: so it does
    not depend on how much empty space surrounds the patient. This is the rule of FreeSurfer's ``mri_convert
    --conform`` (``MRIchangeType``), which reads it from a histogram of 1000 bins.

    Raises
    ------
    UnsuitableImage
        ``constant-image``.
    """
    low = float(array.min())
    exceeding = (1 - quantile_of_others) * np.count_nonzero(array)
    high = quantile(array, 1 - exceeding / array.size)
    if not high > low:
        raise _constant(f"a robust maximum of {high:g}, which is the least value")
    array -= np.float32(low)
    array *= np.float32(maximum / (high - low))
    np.clip(array, 0.0, np.float32(maximum), out=array)


def scale_range(array: NDArray[np.float32]) -> None:
    """Map the least value to 0 and the largest to 1, linearly.

    Raises
    ------
    UnsuitableImage
        ``constant-image``.
    """
    low, high = float(array.min()), float(array.max())
    if not high > low:
        raise _constant("one value in all of it")
    array -= np.float32(low)
    array /= np.float32(high - low)


def standardize(array: NDArray[np.float32]) -> None:
    """Zero mean and unit sample standard deviation; sums in float64, by slabs that stay in the cache.

    Raises
    ------
    UnsuitableImage
        ``constant-image``.
    """
    mean = float(array.mean(dtype=np.float64))
    array -= np.float32(mean)
    flat = array.reshape(array.shape[0], -1)
    squares = sum(float(np.dot(row, row)) for row in flat)
    deviation = np.sqrt(squares / max(1, array.size - 1))
    if not deviation > 0:
        raise _constant("one value in all of it")
    array /= np.float32(deviation)


def piecewise_linear(array: NDArray[np.float32], knots: Sequence[tuple[float, float]]) -> None:
    """Map values along straight lines between ``knots`` (value, what it becomes); outside, the outer values hold.

    Parameters
    ----------
    knots
        At least two, their values ascending.
    """
    values, results = zip(*knots, strict=True)
    # Plane by plane: numpy interpolates in float64, of a whole volume that would be twice its memory.
    for plane in array:
        plane[...] = np.interp(plane, values, results)


def _constant(found: str) -> UnsuitableImage:
    return UnsuitableImage("constant-image", "the image has no contrast", found=found, mend=_CHECK)
