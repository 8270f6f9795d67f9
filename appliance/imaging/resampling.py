"""Resampling along whole axes, with the rules of the frameworks that the models were trained in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def nearest_indices(size: int, samples: int) -> NDArray[np.intp]:
    """For each of ``samples`` output samples the input sample (of ``size``) whose centre is nearest.

    This is PyTorch's ``nearest-exact``, with its rounding: the ratio is a float32, which decides ties.
    """
    ratio = np.float64(np.float32(size) / np.float32(samples))
    positions = ((np.arange(samples) + 0.5) * ratio).astype(np.float32)
    return np.minimum(np.floor(positions).astype(np.intp), size - 1)


def resize_nearest(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Resize every axis by picking samples; a copy, contiguous."""
    for axis in _cheapest_order(array.shape, shape):
        array = array.take(nearest_indices(array.shape[axis], shape[axis]), axis=axis)
    return np.ascontiguousarray(array)


def _cheapest_order(before: tuple[int, ...], after: tuple[int, ...]) -> list[int]:
    """The order of the axes in which resizing moves the fewest bytes, and moves them in the longest runs.

    Along the first axis whole planes are copied, along the last single samples are gathered: so what shrinks goes
    first, from the front, and what grows goes last, from the back.
    """
    shrinking = [axis for axis in range(len(before)) if after[axis] <= before[axis]]
    growing = [axis for axis in range(len(before)) if after[axis] > before[axis]]
    return shrinking + growing[::-1]


def resize_linear(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize every axis by linear interpolation between sample centres (half-pixel centres, edges held)."""
    for axis in _cheapest_order(array.shape, shape):
        size, samples = array.shape[axis], shape[axis]
        if size == samples:
            continue
        positions = np.clip((np.arange(samples) + 0.5) * (size / samples) - 0.5, 0, size - 1)
        low = np.minimum(np.floor(positions).astype(np.intp), max(0, size - 2))
        weight = (positions - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(array.ndim)])
        below = array.take(low, axis=axis)
        above = array.take(np.minimum(low + 1, size - 1), axis=axis)
        above -= below
        above *= weight
        above += below
        array = above
    return np.ascontiguousarray(array)


def resize_area(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize an image ``[row, column]`` linearly, with a filter as wide as an output pixel where it shrinks."""
    picture = Image.fromarray(np.ascontiguousarray(array, dtype=np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR), dtype=np.float32)
