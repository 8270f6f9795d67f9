"""From probabilities to masks: competition of channels, stray parts, holes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import ModelPackageError
from appliance.manifest.readout import Readout, StructureSpec
from appliance.readout.structures import cleaned, masks_of

CODE = {"value": "1", "scheme": "99X", "meaning": "Something"}


def structure(channel: int, components: int = 0, fill_holes: bool = False) -> StructureSpec:
    return StructureSpec.model_validate(
        {
            "label": f"Structure {channel}",
            "channel": channel,
            "category": CODE,
            "structure": CODE,
            "color": [1, 2, 3],
            "components": components,
            "fill_holes": fill_holes,
            "measurements": [{"quantity": "volume_ml", "concept": CODE, "unit": CODE}],
        }
    )


def readout(kind: str, *channels: int, restore: str = "nearest", threshold: float = 0.5) -> Readout:
    return Readout(
        kind=kind,  # type: ignore[arg-type]
        threshold=threshold,
        restore=restore,  # type: ignore[arg-type]
        structures=[structure(channel) for channel in channels],
    )


def as_it_is(array: NDArray[Any], *, interpolate: bool) -> NDArray[Any]:
    return array


@pytest.mark.parametrize("restore", ["nearest", "linear"])
def test_threshold_is_strict_and_channels_are_independent(restore: str) -> None:
    output = np.array([[[[0.2, 0.5, 0.6]], [[0.9, 0.1, 0.7]]]], np.float32)
    one, two = masks_of(output, readout("threshold", 0, 1, restore=restore), as_it_is)
    assert one.tolist() == [[False, False, True]]
    assert two.tolist() == [[True, False, True]]


@pytest.mark.parametrize(("restore", "interpolate"), [("nearest", False), ("linear", True)])
def test_the_manifest_says_how_outputs_return(restore: str, interpolate: bool) -> None:
    asked = []

    def restored(array: NDArray[Any], *, interpolate: bool) -> NDArray[Any]:
        asked.append(interpolate)
        return array

    masks_of(np.ones((1, 2, 2, 2), np.float32), readout("threshold", 0, 1, restore=restore), restored)
    assert asked == [interpolate, interpolate]


@given(arrays(np.float32, (1, 4, 3, 5), elements=st.floats(0, 1, width=32)))
def test_channels_compete(output: NDArray[np.float32]) -> None:
    """Where the structures together reach the threshold the likeliest wins, the first of equals."""
    masks = masks_of(output, readout("argmax", 1, 2, 3), as_it_is)
    channels = output[0, 1:]
    together = (channels[0] + channels[1]) + channels[2]
    for index, mask in enumerate(masks):
        assert np.array_equal(mask, (together >= np.float32(0.5)) & (channels.argmax(axis=0) == index))


@given(arrays(np.float32, (1, 4, 3, 5, 2), elements=st.floats(-9, 9, width=32)))
def test_the_highest_score_wins(output: NDArray[np.float32]) -> None:
    """The first of equals; and a network that says which won gives the same masks."""
    winners = output[0].argmax(axis=0)
    of_scores = masks_of(output, readout("labels", 1, 3), as_it_is)
    of_labels = masks_of(winners[None, None].astype(np.uint8), readout("labels", 1, 3), as_it_is)
    for label, one, other in zip((1, 3), of_scores, of_labels, strict=True):
        assert np.array_equal(one, winners == label)
        assert np.array_equal(other, winners == label)


def test_one_byte_for_each_sample_returns_to_the_source() -> None:
    returned = []

    def restored(array: NDArray[Any], *, interpolate: bool) -> NDArray[Any]:
        returned.append((array.dtype, interpolate))
        return array

    masks_of(np.ones((1, 4, 2, 2, 2), np.float32), readout("labels", 1, 2, 3), restored)
    assert returned == [(np.uint8, False)]


@pytest.mark.parametrize(("kind", "channels"), [("labels", 2), ("threshold", 1), ("argmax", 1)])
def test_whole_numbers_are_labels_of_one_channel(kind: str, channels: int) -> None:
    with pytest.raises(ModelPackageError, match=rf"found {channels} channel\(s\) of uint8, readout.kind {kind}"):
        masks_of(np.ones((1, channels, 2, 2, 2), np.uint8), readout(kind, 1), as_it_is)


def test_a_channel_that_is_not_there() -> None:
    with pytest.raises(ModelPackageError, match="found channel 2, expected 0 to 1"):
        masks_of(np.ones((1, 2, 2, 2), np.float32), readout("threshold", 0, 2), as_it_is)


class TestCleaning:
    def test_keeps_the_largest_part(self) -> None:
        mask = np.zeros((6, 6, 6), np.bool_)
        mask[1:4, 1:4, 1:4] = True
        expected = mask.copy()
        mask[5, 5, 5] = True
        assert np.array_equal(cleaned(mask, structure(0, components=1)), expected)
        assert np.array_equal(cleaned(mask, structure(0, components=2)), mask)
        assert np.array_equal(cleaned(mask, structure(0)), mask)

    def test_parts_touch_by_corners(self) -> None:
        mask = np.zeros((4, 4, 4), np.bool_)
        mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
        assert cleaned(mask, structure(0, components=1)).sum() == 2

    def test_fills_what_is_enclosed_only(self) -> None:
        ring = np.zeros((7, 7), np.bool_)
        ring[1:6, 1:6] = True
        ring[3, 3] = False
        opened = ring.copy()
        opened[3, 4:] = False
        assert cleaned(ring, structure(0, fill_holes=True)).sum() == 25
        assert np.array_equal(cleaned(opened, structure(0, fill_holes=True)), opened)

    def test_an_empty_mask_stays_empty(self) -> None:
        assert not cleaned(np.zeros((3, 3), np.bool_), structure(0, components=1, fill_holes=True)).any()

    @given(arrays(np.bool_, (5, 6, 7)))
    def test_agrees_with_scipy(self, mask: NDArray[np.bool_]) -> None:
        assert np.array_equal(cleaned(mask, structure(0, fill_holes=True)), ndimage.binary_fill_holes(mask))
        kept = cleaned(mask, structure(0, components=1))
        parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
        if count:
            assert kept.sum() == np.bincount(parts.ravel())[1:].max()
