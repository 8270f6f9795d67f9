"""Large images through a network that takes smaller ones: overlapping tiles, blended where they overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]

OVERLAP = 0.5
"""Share of a tile that the next one covers again: what is near the edge of one is in the middle of another."""
_SIGMA = 0.125
"""Width of the Gaussian, as a share of the tile; the values are those of nnU-Net (Isensee et al., Nat Methods 2021)."""


def smaller_shapes(largest: Shape, smallest: Shape) -> Iterator[Shape]:
    """Yield shapes that need less memory, each with its longest axis about halved, down to ``smallest``.

    Axes stay multiples of those of ``smallest``: a network that halves its images several times needs that.
    """
    shape = list(largest)
    while True:
        candidates = [
            (size, axis)
            for axis, (size, least) in enumerate(zip(shape, smallest, strict=True))
            if axis > 1 and size > least
        ]
        if not candidates:
            return
        size, axis = max(candidates)
        least = smallest[axis]
        shape[axis] = max(least, (size // 2) // least * least)
        yield tuple(shape)


def tile_offsets(size: int, tile: int) -> list[int]:
    """Where tiles begin on one axis: evenly spread, at least ``OVERLAP`` of a tile in common, first to last voxel."""
    if tile >= size:
        return [0]
    step = max(1, int(tile * (1 - OVERLAP)))
    count = -(-(size - tile) // step) + 1
    return [round(index * (size - tile) / (count - 1)) for index in range(count)]


def windows(image: Sequence[int], tile: Sequence[int]) -> list[tuple[slice, ...]]:
    """The windows of an image ``axes…`` that are given to the network, first axis slowest."""
    starts = [tile_offsets(size, length) for size, length in zip(image, tile, strict=True)]
    return [
        tuple(slice(start, start + min(length, size)) for start, length, size in zip(corner, tile, image, strict=True))
        for corner in product(*starts)
    ]


def importance(tile: Sequence[int]) -> NDArray[np.float32]:
    """How much each voxel of a tile counts: a Gaussian about its middle.

    At the faces it is 1/3000, so that even in a corner the tile that sees more outweighs the one that ends there.
    """
    weights = np.ones((), np.float64)
    for length in tile:
        distance = np.arange(length) - (length - 1) / 2
        weights = weights[..., None] * np.exp(-0.5 * (distance / (_SIGMA * length)) ** 2)
    return weights.astype(np.float32)


class Blend:
    """The weighted mean of what the network said about each voxel.

    Parameters
    ----------
    image
        Axes of the whole image.
    tile
        Axes of every tile.
    """

    def __init__(self, image: Sequence[int], tile: Sequence[int]) -> None:
        self._image = tuple(image)
        self._weights = importance(tile)
        self._sum: NDArray[np.float32] | None = None
        self._total = np.zeros(self._image, np.float32)

    def add(self, window: tuple[slice, ...], output: NDArray[np.float32]) -> None:
        """Take the output ``[batch, channel, axes…]`` of one window."""
        if self._sum is None:
            self._sum = np.zeros((*output.shape[:2], *self._image), np.float32)
        self._sum[(slice(None), slice(None), *window)] += output * self._weights
        self._total[window] += self._weights

    def mean(self) -> NDArray[np.float32]:
        """Return the whole output ``[batch, channel, axes…]``; the caller's own."""
        assert self._sum is not None
        self._sum /= self._total
        return self._sum
