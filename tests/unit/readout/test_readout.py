"""From an output to a result: numbers with their meaning, honest units, and nothing rather than something wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.domain.codes import Code
from appliance.domain.geometry import Grid
from appliance.domain.image import Image, ImageVolume, ProjectionImage, SourceFrame
from appliance.domain.result import Algorithm, InferenceResult
from appliance.errors import UnsuitableImage
from appliance.manifest.manifest import Manifest
from appliance.manifest.reader import read_manifest
from appliance.readout.readout import read_out
from tests.conftest import REPOSITORY

ALGORITHM = Algorithm("a", "1", Code("123110", "DCM", "Artificial Intelligence"), "m")
LUNG = read_manifest(REPOSITORY / "engines" / "cxr-lung" / "1.0.0" / "manifest.yaml")
BRAIN = read_manifest(REPOSITORY / "engines" / "mr-brain-extract" / "1.0.0" / "manifest.yaml")


def as_it_is(array: NDArray[Any], *, interpolate: bool) -> NDArray[Any]:
    return array


def chest(
    spacing_mm: tuple[float, float] | None = (2.0, 1.5), orientation: tuple[str, str] | None = ("L", "F")
) -> ProjectionImage:
    return ProjectionImage(
        np.zeros((100, 120), np.float32), spacing_mm, "About the spacing.", orientation, SourceFrame("1", "2"), "DX"
    )


def lungs(right: int = 60, left: int = 40) -> NDArray[np.float32]:
    """Probabilities of two rectangles, 30 columns wide, ``right`` and ``left`` rows high."""
    output = np.zeros((1, 3, 100, 120), np.float32)
    output[0, 1, 10 : 10 + right, 15:45] = 0.9
    output[0, 2, 10 : 10 + left, 75:105] = 0.8
    return output


def head(voxel_mm: float = 1.0, shear: float = 0.0) -> ImageVolume:
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[1, 0] = shear
    shape = (100, 110, 120)
    frames = tuple(SourceFrame("1", f"2.{index}") for index in range(shape[0]))
    return ImageVolume(np.zeros(shape, np.float32), Grid(shape, affine), frames, None, "MR")


def brain(side: int) -> NDArray[np.float32]:
    output = np.zeros((1, 1, 100, 110, 120), np.float32)
    output[0, 0, 2 : 2 + side, 2 : 2 + side, 2 : 2 + side] = 1
    return output


def read(output: NDArray[np.float32], image: Image, manifest: Manifest) -> InferenceResult:
    return read_out(output, as_it_is, image, manifest, ALGORITHM)


def refusal(output: NDArray[np.float32], image: Image, manifest: Manifest) -> UnsuitableImage:
    with pytest.raises(UnsuitableImage) as caught:
        read(output, image, manifest)
    return caught.value


@pytest.mark.parametrize("shear", [0.0, 0.4], ids=["straight", "tilted"])
def test_volume_in_millilitres(shear: float) -> None:
    """1.5 mm voxels; a sheared grid has the volume of its determinant."""
    result = read(brain(80), head(1.5, shear), BRAIN)
    (finding,) = result.findings
    (volume,) = finding.measurements
    assert volume.value == pytest.approx(80**3 * 1.5**3 / 1000)
    assert volume.unit.value == "ml"
    assert finding.tracking_id == "mr-brain-extract Brain"
    assert finding.segment == 0
    assert result.segments[0].mask.sum() == 80**3
    assert (result.title, result.intended_use) == (BRAIN.title, BRAIN.intended_use)


def test_varying_slices_count_with_the_space_they_stand_for() -> None:
    """Slices 1 mm apart, from the fiftieth on 3 mm: one in between stands for 2 mm; the result says so."""
    even = head()
    places = np.concatenate([np.arange(50.0), 49 + 3.0 * np.arange(1, 51)])
    image = ImageVolume(even.voxels, Grid(even.grid.shape, even.grid.affine, places), even.frames, None, "MR")
    result = read(brain(80), image, BRAIN)
    assert result.findings[0].measurements[0].value == pytest.approx(80**2 * (47 * 1 + 2 + 32 * 3) / 1000)
    (note,) = result.notes
    assert "varies from 1.00 to 3.00 mm" in note and "interpolated linearly" in note


def test_tilt_is_said() -> None:
    assert read(brain(80), head(1.0, 0.4), BRAIN).notes == ("The slices are tilted by 21.8 degrees (gantry tilt).",)
    assert not read(brain(80), head(), BRAIN).notes


def test_areas_where_millimetres_are_honest() -> None:
    right, left = read(lungs(), chest(), LUNG).findings
    assert [(m.unit.value, m.value) for m in right.measurements] == [("cm2", pytest.approx(60 * 30 * 3.0 / 100))]
    assert [(m.unit.value, m.value) for m in left.measurements] == [("cm2", pytest.approx(40 * 30 * 3.0 / 100))]
    assert (right.laterality, left.laterality) == (Code("24028007", "SCT", "Right"), Code("7771000", "SCT", "Left"))


def test_pixels_where_they_are_not() -> None:
    result = read(lungs(), chest(spacing_mm=None), LUNG)
    assert [(m.unit.value, m.value) for m in result.findings[0].measurements] == [("{pixels}", 1800.0)]
    assert "About the spacing." in result.notes


def test_ratio_needs_no_millimetres() -> None:
    for spacing_mm in (None, (2.0, 1.5)):
        (ratio,) = read(lungs(), chest(spacing_mm), LUNG).overall
        assert ratio.value == pytest.approx(1.5)
        assert ratio.shown() == "1.50"


def test_notes_of_the_manifest_are_carried() -> None:
    assert set(LUNG.readout.notes) <= set(read(lungs(), chest(), LUNG).notes)


@pytest.mark.parametrize("side", [20, 98])
def test_an_implausible_number_is_withheld(side: int) -> None:
    error = refusal(brain(side), head(2.0), BRAIN)
    assert error.reason == "implausible-result"
    assert "Brain" in str(error) and "expected 300 to 2500" in str(error)


@pytest.mark.parametrize(("right", "left", "missing"), [(60, 0, "Left lung"), (0, 40, "Right lung")])
def test_nothing_found(right: int, left: int, missing: str) -> None:
    error = refusal(lungs(right, left), chest(), LUNG)
    assert error.reason == "nothing-found"
    assert missing in str(error)


@pytest.mark.parametrize("orientation", [("R", "F"), ("L", "H"), ("F", "L"), ("P", "F")])
def test_a_mirrored_or_rotated_image_is_refused(orientation: tuple[str, str]) -> None:
    """Right and left would be swapped, or mean nothing."""
    assert refusal(lungs(), chest(orientation=orientation), LUNG).reason == "unexpected-orientation"


def test_a_qualified_orientation_is_taken() -> None:
    assert len(read(lungs(), chest(orientation=("LF", "FR")), LUNG).findings) == 2


def test_an_assumed_orientation_is_said() -> None:
    assert any("is assumed" in note for note in read(lungs(), chest(orientation=None), LUNG).notes)
    assert not any("is assumed" in note for note in read(lungs(), chest(), LUNG).notes)
