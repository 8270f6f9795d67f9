"""How far two outputs of one network agree: figures only, who compares decides what is enough."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 20


def dice(candidate: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Dice's coefficient of two masks of one shape: 0 (apart) to 1 (the same); two empty masks are the same.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    _check_shapes(candidate, reference)
    together = np.count_nonzero(candidate) + np.count_nonzero(reference)
    return 1.0 if together == 0 else 2.0 * np.count_nonzero(candidate & reference) / together


def size_difference(candidate: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """How much larger (positive) or smaller the candidate is, relative to the reference.

    0 when both are empty, infinite when only the reference is. Masks of one size need not overlap: see ``dice``.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    _check_shapes(candidate, reference)
    found, expected = np.count_nonzero(candidate), np.count_nonzero(reference)
    if expected == 0:
        return 0.0 if found == 0 else math.inf
    return (found - expected) / expected


def max_difference(candidate: NDArray[Any], reference: NDArray[Any]) -> float:
    """The largest absolute difference of any two elements, in the unit of the outputs; infinite when one is no number.

    Of label maps it has no meaning: compare the masks of their labels.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    _check_shapes(candidate, reference)
    one, other = candidate.reshape(-1), reference.reshape(-1)
    worst = 0.0
    # Piece by piece: in float64, the difference of two large volumes would need four times their memory.
    for start in range(0, one.size, _PIECE):
        piece = slice(start, start + _PIECE)
        difference = float(np.abs(one[piece].astype(np.float64) - other[piece].astype(np.float64)).max())
        if not math.isfinite(difference):
            return math.inf
        worst = max(worst, difference)
    return worst


def _check_shapes(candidate: NDArray[Any], reference: NDArray[Any]) -> None:
    if candidate.shape != reference.shape:
        raise ValueError(f"outputs of one network have one shape, not {candidate.shape} and {reference.shape}")
