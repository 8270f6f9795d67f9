"""Exact quantiles of large images, in a fraction of the time that sorting takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SAMPLE = 1 << 15


def quantile(array: NDArray[np.float32], q: float) -> float:
    """Return the quantile ``q`` (0 to 1), interpolated linearly between neighbours, as ``numpy.quantile`` has it.

    A radiograph has millions of pixels and the daemon is measured in milliseconds: a sorted sample brackets the value,
    and only what lies in the bracket is ordered. The result is exact; a bracket that missed is noticed.

    Parameters
    ----------
    array
        Of any shape, without NaN.
    """
    flat = array.ravel()
    position = q * (flat.size - 1)
    rank = min(int(position), flat.size - 1)
    value, following = _ordered_pair(flat, rank, q)
    return value + (position - rank) * (following - value)


def _ordered_pair(flat: NDArray[Any], rank: int, q: float) -> tuple[float, float]:
    """The values of this rank and of the next (base 0) in ascending order; the last has itself as its next."""
    following = min(rank + 1, flat.size - 1)
    # An odd stride does not fall into step with the rows of an image.
    sample = np.sort(flat[:: flat.size // _SAMPLE | 1])
    width = int(8 * np.sqrt(sample.size * q * (1 - q))) + 8
    middle = int(q * sample.size)
    low = sample[middle - width] if middle >= width else -np.inf
    high = sample[middle + width] if middle + width < sample.size else np.inf
    inside = flat[(flat >= low) & (flat <= high)]
    below = int(np.count_nonzero(flat < low))
    if not below <= rank <= following < below + inside.size:
        inside, below = flat, 0
    ordered = np.partition(inside, (rank - below, following - below))
    return float(ordered[rank - below]), float(ordered[following - below])
