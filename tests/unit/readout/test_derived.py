"""Parts of a structure, chosen by the values of the image: measured, absent or withheld, and always explained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.domain.codes import Code
from appliance.domain.geometry import Grid
from appliance.domain.image import ImageVolume, SourceFrame
from appliance.domain.result import Algorithm, InferenceResult
from appliance.errors import UnsuitableImage
from appliance.manifest.manifest import Manifest
from appliance.manifest.reader import read_manifest
from appliance.readout.readout import read_out
from tests.conftest import REPOSITORY

ALGORITHM = Algorithm("a", "1", Code("123110", "DCM", "Artificial Intelligence"), "m")
BRAIN = read_manifest(REPOSITORY / "engines" / "mr-brain-extract" / "1.0.0" / "manifest.yaml")
SHAPE = (24, 90, 100)


Box = tuple[slice, slice, slice]


def head_ct(*blood: tuple[Box, float], agent: bool = False, noise: float = 0.0, tilt: float = 0.0) -> ImageVolume:
    """Brain of 35 HU everywhere, but for boxes of other values; 2 x 1 x 1 mm, bone at the edge of the brain."""
    voxels = np.full(SHAPE, 35.0, np.float32)
    for box, value in blood:
        voxels[box] = value
    voxels += np.random.default_rng(5).normal(0, noise, SHAPE).astype(np.float32) if noise else 0
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    affine[1, 0] = tilt
    frames = tuple(SourceFrame("1", f"2.{index}") for index in range(SHAPE[0]))
    return ImageVolume(voxels, Grid(SHAPE, affine), frames, None, "CT", agent)


def manifest(optional: bool = True, **derived: Any) -> Manifest:
    """``mr-brain-extract`` with a structure within its brain."""
    content = BRAIN.model_dump(mode="json", exclude={"golden"})
    (brain,) = content["readout"]["structures"]
    brain["measurements"][0]["plausible"] = None
    volume = {**brain["measurements"][0], "digits": 1}
    content["readout"]["structures"].append(
        {
            **{key: brain[key] for key in ("category", "color")},
            "label": "Hyperdense",
            "structure": {"value": "hyperdense", "scheme": "99TEST", "meaning": "Hyperdense voxels"},
            "optional": optional,
            "derived": {"within": "Brain", "min": 50, "max": 90, **derived},
            "measurements": [volume],
        }
    )
    return Manifest.model_validate(content)


def read(image: ImageVolume, what: Manifest) -> InferenceResult:
    output = np.zeros((1, 1, *SHAPE), np.float32)
    output[0, 0, 2:22, 10:80, 10:90] = 1

    def as_it_is(array: NDArray[Any], *, interpolate: bool) -> NDArray[Any]:
        return array

    return read_out(output, as_it_is, image, what, ALGORITHM)


CLOT = (slice(8, 13), slice(40, 50), slice(40, 60))
OUTSIDE = (slice(8, 13), slice(0, 6), slice(0, 50))


def test_what_is_found_has_a_segment_and_its_volume() -> None:
    result = read(head_ct((CLOT, 65), (OUTSIDE, 65)), manifest())
    brain, clot = result.findings
    assert clot.segment == 1 and clot.tracking_id == "mr-brain-extract Hyperdense"
    assert clot.measurements[0].value == pytest.approx(5 * 10 * 20 * 2 / 1000)
    assert (clot.finding.value, clot.site) == ("hyperdense", brain.finding)
    assert np.array_equal(np.argwhere(result.segments[1].mask)[[0, -1]], [[8, 40, 40], [12, 49, 59]])
    (note,) = result.notes
    assert note == "Hyperdense: the voxels from 50 to 90 HU within Brain."
    assert result.segments[1].description == note and not result.segments[0].description


@pytest.mark.parametrize("value", [49.9, 90.1])
def test_what_is_absent_is_measured_as_nothing(value: float) -> None:
    result = read(head_ct((CLOT, value)), manifest())
    _, clot = result.findings
    assert clot.segment is None and clot.measurements[0].value == 0
    assert [segment.label for segment in result.segments] == ["Brain"]
    assert "Hyperdense" in result.notes[0]


@pytest.mark.parametrize("value", [50, 90])
def test_bounds_belong_to_it(value: float) -> None:
    assert read(head_ct((CLOT, value)), manifest()).findings[1].segment == 1


def test_what_is_not_optional_must_be_found() -> None:
    with pytest.raises(UnsuitableImage) as caught:
        read(head_ct(), manifest(optional=False))
    assert caught.value.reason == "nothing-found" and "Hyperdense" in str(caught.value)


def test_the_edge_and_crumbs_are_left_out() -> None:
    """A rim of bone at the edge of the brain, and a speck of calcification, are no findings; the clot is."""
    rim = (slice(2, 22), slice(10, 12), slice(10, 90))
    speck = (slice(5, 6), slice(30, 34), slice(30, 34))
    image = head_ct((CLOT, 65), (rim, 70), (speck, 70))
    result = read(image, manifest(erode_mm=3, min_component_ml=0.5))
    assert result.findings[1].measurements[0].value == pytest.approx(2.0)
    assert result.notes[0] == (
        "Hyperdense: the voxels from 50 to 90 HU within Brain, more than 3 mm from its edge, "
        "in parts of at least 0.5 ml."
    )
    assert read(image, manifest()).findings[1].measurements[0].value > 4


def test_noise_is_smoothed_before_voxels_are_chosen() -> None:
    image = head_ct((CLOT, 65), noise=9)
    plain = read(image, manifest()).findings[1].measurements[0].value
    smooth = read(image, manifest(smooth_mm=1.5)).findings[1].measurements[0].value
    assert plain > 10 and smooth == pytest.approx(2.0, rel=0.05)


def test_smoothing_takes_nothing_from_outside_of_the_structure() -> None:
    bone = (slice(0, 24), slice(0, 10), slice(0, 100))
    assert read(head_ct((bone, 1000)), manifest(smooth_mm=2)).findings[1].segment is None


def test_parts_of_tilted_slices() -> None:
    """Slices that are 4 rows apart: what is one column in the patient is one part, and is kept whole."""
    column = [((slice(n, n + 1), slice(60 - 4 * n, 63 - 4 * n), slice(50, 53)), 70.0) for n in range(4, 11)]
    image = head_ct(*column, tilt=4.0)
    result = read(image, manifest(min_component_ml=0.12))
    assert result.findings[1].measurements[0].value == pytest.approx(7 * 9 * 2 / 1000)


@pytest.mark.parametrize("native_only", [False, True])
def test_a_contrast_agent_is_not_taken_for_blood(native_only: bool) -> None:
    image = head_ct((CLOT, 65), agent=True)
    result = read(image, manifest(native_only=native_only))
    if native_only:
        assert [finding.tracking_id for finding in result.findings] == ["mr-brain-extract Brain"]
        assert result.notes == ("Hyperdense: not measured, because the images name a contrast agent.",)
    else:
        assert result.findings[1].segment == 1
