"""Outlines as lines: around every pixel of the mask and no other, whatever its shape."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from appliance.results.contours import MOST_POINTS, contours, is_closed


def _inside(lines: list[NDArray[np.float32]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether the centre of each pixel lies inside, by the rule of odd crossings."""
    rows, columns = np.indices(shape) + 0.5
    crossings = np.zeros(shape, dtype=int)
    for line in lines:
        for (x0, y0), (x1, y1) in pairwise(line):
            if y0 != y1:
                at = x0 + (rows - y0) / (y1 - y0) * (x1 - x0)
                crossings += ((y0 <= rows) != (y1 <= rows)) & (columns < at)
    return np.asarray(crossings % 2 == 1)


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_mask_comes_back_from_its_outline(mask: NDArray[np.bool_]) -> None:
    lines = contours(mask)
    assert all(is_closed(line) for line in lines)
    assert np.array_equal(_inside(lines, mask.shape), mask)


@given(arrays(np.bool_, (6, 7)))
def test_it_lies_within_half_a_pixel_of_the_edge(mask: NDArray[np.bool_]) -> None:
    """Each point is on the edge between a pixel that belongs and one that does not."""
    padded = np.pad(mask, 1)
    for line in contours(mask):
        for column, row in line + 0.5:  # in the padded mask, a pixel's centre is at its index
            beside = padded[np.floor(row).astype(int) : np.ceil(row).astype(int) + 1]
            beside = beside[:, np.floor(column).astype(int) : np.ceil(column).astype(int) + 1]
            assert beside.any() and not beside.all()


def test_straight_stretches_have_no_points_between() -> None:
    mask = np.zeros((40, 60), dtype=np.bool_)
    mask[10:30, 5:55] = True
    (line,) = contours(mask)
    assert len(line) == 9, "a rectangle with its corners cut"
    assert line.min(axis=0).tolist() == [5, 10] and line.max(axis=0).tolist() == [55, 30]


def test_nothing_has_no_outline() -> None:
    assert contours(np.zeros((3, 3), dtype=np.bool_)) == []


def test_an_edge_of_very_many_points_comes_in_pieces() -> None:
    comb = np.zeros((41, 8001), dtype=np.bool_)
    comb[20:] = True
    comb[:, ::2] = True
    pieces = contours(comb)
    assert len(pieces) > 1 and all(2 <= len(piece) <= MOST_POINTS for piece in pieces)
    assert not any(is_closed(piece) for piece in pieces)
    for piece, following in zip(pieces, [*pieces[1:], pieces[0]], strict=True):
        assert np.array_equal(piece[-1], following[0])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_points_close_nothing(count: int) -> None:
    assert not is_closed(np.zeros((count, 2), dtype=np.float32))
