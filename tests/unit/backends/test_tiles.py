"""Tiles cover every voxel, overlap, and give back what a network that looks at single voxels says of the whole."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.backends.tiles import OVERLAP, Blend, importance, smaller_shapes, tile_offsets, windows


@given(st.integers(1, 300), st.integers(1, 300))
def test_every_voxel_is_in_a_tile_and_neighbours_overlap(size: int, tile: int) -> None:
    starts = tile_offsets(size, tile)
    covered = np.zeros(size, int)
    for start in starts:
        covered[start : start + tile] += 1
    assert covered.min() >= 1
    assert starts[0] == 0 and starts[-1] == max(0, size - tile)
    if tile > 1:
        assert all(after - before <= tile * (1 - OVERLAP) + 1 for before, after in pairwise(starts))


@given(st.tuples(st.integers(4, 40), st.integers(4, 40)), st.tuples(st.integers(4, 40), st.integers(4, 40)))
def test_what_depends_on_single_voxels_is_the_same_in_tiles(image: tuple[int, int], tile: tuple[int, int]) -> None:
    tile = tuple(min(a, b) for a, b in zip(tile, image, strict=True))  # type: ignore[assignment]
    tensor = np.random.default_rng(3).normal(size=(1, 1, *image)).astype(np.float32)
    blend = Blend(image, tile)
    for window in windows(image, tile):
        blend.add(window, np.concatenate([tensor[(..., *window)], -tensor[(..., *window)]], axis=1))
    assert np.allclose(blend.mean(), np.concatenate([tensor, -tensor], axis=1), atol=1e-5)


def test_the_middle_of_a_tile_counts_most() -> None:
    weights = importance((9, 9))
    assert np.unravel_index(weights.argmax(), weights.shape) == (4, 4)
    assert weights[4, 4] == pytest.approx(1)
    assert 0 < weights[0, 0] < 0.01


def test_shapes_shrink_by_multiples_of_the_smallest() -> None:
    assert list(smaller_shapes((1, 1, 96, 64), (1, 1, 32, 32))) == [(1, 1, 32, 64), (1, 1, 32, 32)]
    assert list(smaller_shapes((1, 1, 256, 256, 192), (1, 1, 64, 64, 64)))[:3] == [
        (1, 1, 256, 128, 192),
        (1, 1, 128, 128, 192),
        (1, 1, 128, 128, 64),
    ]
    assert list(smaller_shapes((1, 1, 8, 8), (1, 1, 8, 8))) == []
