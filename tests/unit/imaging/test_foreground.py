"""The box around the patient: large enough, of few sizes, and back to where it was cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.errors import UnsuitableImage
from appliance.imaging.foreground import ForegroundBox
from appliance.manifest.steps import CropToForeground

LEAST, MOST = (16, 16, 16), (96, 96, 96)


def crop(**options: Any) -> CropToForeground:
    return CropToForeground.model_validate({"step": "crop_to_foreground", "level": 10.0, "margin": 4, **options})


def block(shape: tuple[int, ...], *ranges: tuple[int, int]) -> NDArray[np.float32]:
    array = np.full(shape, 1.0, np.float32)
    array[tuple(slice(*bounds) for bounds in ranges)] = 100
    return array


@given(
    shape=st.tuples(*[st.integers(20, 90)] * 3),
    corners=st.tuples(*[st.tuples(st.floats(0, 0.7), st.floats(0.2, 1))] * 3),
    margin=st.integers(0, 9),
    multiple=st.sampled_from([1, 8, 16]),
)
@settings(max_examples=60, deadline=None)
def test_it_holds_the_part_and_goes_back(
    shape: tuple[int, ...], corners: tuple[tuple[float, float], ...], margin: int, multiple: int
) -> None:
    ranges = []
    for size, (start, share) in zip(shape, corners, strict=True):
        first = int(start * size)
        ranges.append((first, max(first + 4, first + int(share * (size - first)))))
    array = block(shape, *ranges)
    box = ForegroundBox(array, crop(margin=margin, multiple=multiple), LEAST, MOST)
    cut = box.cut(array)
    assert cut.shape == box.shape
    assert all(size % multiple == 0 and 16 <= size <= 96 for size in cut.shape)
    assert (cut == 100).sum() == (array == 100).sum()
    assert np.array_equal(box.put_back(cut > 50), array > 50)


def test_the_margin_is_kept_and_the_size_is_a_multiple() -> None:
    """Seen at every fourth sample, the part may seem up to three samples longer at either end."""
    array = block((80, 80, 80), (20, 41), (30, 50), (24, 57))
    box = ForegroundBox(array, crop(), LEAST, MOST)
    assert box.shape == (48, 32, 48)
    inside = np.argwhere(box.cut(array) == 100)
    assert np.all(inside.min(axis=0) >= 4) and np.all(np.array(box.shape) - 1 - inside.max(axis=0) >= 4)


def test_noise_apart_from_the_patient_does_not_count() -> None:
    array = block((80, 80, 80), (20, 40), (20, 40), (20, 40))
    array[0:4, 76:80, 76:80] = 100
    assert ForegroundBox(array, crop(), LEAST, MOST).shape == (32, 32, 32)


@pytest.mark.parametrize(("keep", "first"), [("start", 8), ("middle", 18), ("end", 24)])
def test_what_is_too_long_is_cut_where_the_manifest_says(keep: str, first: int) -> None:
    array = block((120, 20, 20), (12, 120), (4, 16), (4, 16))
    box = ForegroundBox(array, crop(keep=keep), LEAST, MOST)
    assert box.shape == (96, 32, 32)
    kept = np.flatnonzero(box.put_back(np.ones(box.shape, np.bool_)).any(axis=(1, 2)))
    assert kept[-1] - kept[0] == 95
    assert kept[0] == pytest.approx(first, abs=3)


def test_what_is_smaller_than_the_least_is_surrounded() -> None:
    array = block((9, 10, 11), (0, 9), (0, 10), (0, 11))
    box = ForegroundBox(array, crop(margin=0), LEAST, MOST)
    assert box.shape == (16, 16, 16)
    assert np.array_equal(box.put_back(box.cut(array)), array)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(UnsuitableImage, match="found nothing above 10") as caught:
        ForegroundBox(np.full((20, 20, 20), 10, np.float32), crop(), LEAST, MOST)
    assert caught.value.reason == "nothing-found"
