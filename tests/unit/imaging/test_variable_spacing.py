"""A phantom of known size and place, in slices whose distance varies and that are tilted: judged right, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.domain.geometry import Grid
from appliance.domain.image import ImageVolume
from appliance.errors import UnsuitableImage
from appliance.imaging.even_stack import EvenStack
from appliance.imaging.loading import load_image
from appliance.imaging.patient_grid import PatientGrid
from appliance.imaging.preparation import Preparation
from appliance.manifest.manifest import InputSpec, StageSpec
from appliance.readout.quantities import volume_ml
from tests.support.dicom_factory import Stack, ct_series, enhanced_ct, write_datasets

SPEC = InputSpec(kind="volume", allow_tilt=True, allow_variable_spacing=True, max_slice_spacing_mm=7.5)
# As a real head CT has it: thin slices below, one that nearly repeats its neighbour, thick slices above.
PLACES = [*(4.0 * n for n in range(14)), 53.08, *(53.08 + 7.0 * n for n in range(1, 14))]
CENTRE_MM = np.array([3.0, -11.0, 72.0])
RADII_MM = np.array([42.0, 55.0, 48.0])
ML = float(4 / 3 * np.pi * RADII_MM.prod()) / 1000

HEAD_FIRST = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
FEET_FIRST = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
PIXEL_MM = (1.2, 1.1)


def phantom_stack(orientation: tuple[tuple[float, ...], tuple[float, ...]], tilt: float, upwards: bool) -> Stack:
    """Slices turned by ``tilt`` about the left-right axis, which follow each other along the patient's long axis."""
    (x, *_), _ = orientation
    column = (0.0, float(np.cos(np.radians(tilt))), float(-np.sin(np.radians(tilt))))
    step = np.array([0.0, 0.0, 1.0]) / np.cos(np.radians(tilt))
    origin = np.array([CENTRE_MM[0] - 65.0 * x, CENTRE_MM[1] - 75.0, 75.0 * np.tan(np.radians(tilt))])
    if not upwards:
        origin = origin + step * PLACES[-1]
        step = -step
    places = PLACES if upwards else [PLACES[-1] - place for place in reversed(PLACES)]
    return Stack((x, 0.0, 0.0), column, (5.0, *PIXEL_MM), tuple(origin.tolist()), tuple(step.tolist()), places)


def phantom(stack: Stack, shape: tuple[int, int]) -> NDArray[np.int16]:
    """HU of an ellipsoid of 40 HU in air; the centre of each voxel decides."""
    rows, columns = np.indices(shape)
    planes = []
    for index in range(len(PLACES)):
        points = (
            stack.position_mm(index)
            + rows[..., None] * np.asarray(stack.column) * stack.spacing_mm[1]
            + columns[..., None] * np.asarray(stack.row) * stack.spacing_mm[2]
        )
        inside = (((points - CENTRE_MM) / RADII_MM) ** 2).sum(axis=-1) <= 1
        planes.append(np.where(inside, 40, -1000))
    return np.array(planes, dtype=np.int16)


def loaded(folder: Path, stack: Stack, *, enhanced: bool = False, spec: InputSpec = SPEC) -> ImageVolume:
    hu = phantom(stack, (130, 122))
    datasets = [enhanced_ct(hu, stack)] if enhanced else ct_series(hu, stack)
    image = load_image(write_datasets(datasets, folder), spec).image
    assert isinstance(image, ImageVolume)
    return image


TO_PROBABILITY = {"step": "affine", "scale": 1 / 1040, "offset": 1000 / 1040}
"""Air to 0, the phantom to 1: the network of these tests is what it sees."""


def stage_of(shape: tuple[int, ...], *steps: dict[str, Any]) -> StageSpec:
    return StageSpec.model_validate(
        {
            "name": "segment",
            "weights": "model.onnx",
            "input_tensor": "image",
            "input_shape": [1, 1, *shape],
            "steps": steps,
            "output_tensor": "mask",
        }
    )


def centre_of(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.float64]:
    """Centre of mass in LPS mm, each slice with the space it stands for."""
    index = np.argwhere(mask)
    return np.average(grid.to_patient(index), axis=0, weights=grid.voxel_volumes_mm3[index[:, 0]])


@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize("upwards", [True, False], ids=["upwards", "downwards"])
@pytest.mark.parametrize("tilt", [0.0, 18.5, -12.0])
@pytest.mark.parametrize("orientation", [HEAD_FIRST, FEET_FIRST], ids=["HFS", "FFS"])
def test_the_source_slices(
    orientation: tuple[tuple[float, ...], tuple[float, ...]], tilt: float, upwards: bool, enhanced: bool, tmp_path: Path
) -> None:
    stack = phantom_stack(orientation, tilt, upwards)
    image = loaded(tmp_path, stack, enhanced=enhanced)
    mask = image.voxels > 0
    assert volume_ml(mask, image.grid) == pytest.approx(ML, rel=0.01)
    assert np.all(np.abs(centre_of(mask, image.grid) - CENTRE_MM) < 0.5)
    assert image.grid.tilt_degrees == pytest.approx(abs(tilt), abs=0.05)
    assert sorted(image.grid.slice_distances_mm.tolist()) == pytest.approx(sorted(np.diff(PLACES)), abs=1e-3)
    turned = not np.allclose(stack.position_mm(0), image.grid.to_patient((0, 0, 0)), atol=1e-3)
    for index in (0, 5, 14, 27):
        place = stack.position_mm(27 - index if turned else index)
        truth = place + 100 * PIXEL_MM[0] * np.asarray(stack.column) + 30 * PIXEL_MM[1] * np.asarray(stack.row)
        assert np.allclose(image.grid.to_patient((index, 100.0, 30.0)), truth, atol=1e-3)


@pytest.mark.parametrize("interpolate", [False, True], ids=["nearest", "linear"])
@pytest.mark.parametrize("upwards", [True, False], ids=["upwards", "downwards"])
@pytest.mark.parametrize("tilt", [0.0, 18.5])
@pytest.mark.parametrize("orientation", [HEAD_FIRST, FEET_FIRST], ids=["HFS", "FFS"])
def test_to_the_model_and_back(
    orientation: tuple[tuple[float, ...], tuple[float, ...]],
    tilt: float,
    upwards: bool,
    interpolate: bool,
    tmp_path: Path,
) -> None:
    """What the model sees has the right size and place, and so has what it says, on the source slices."""
    image = loaded(tmp_path, phantom_stack(orientation, tilt, upwards))
    even = EvenStack(image.grid)
    seen = Grid(even.spread(image.voxels).shape, even.affine)
    assert seen.shape[0] > image.grid.shape[0] and seen.is_orthogonal == (tilt == 0)

    preparation = Preparation(image)
    tensor = preparation.tensor(stage_of(seen.shape, TO_PROBABILITY))
    model_mask = tensor[0, 0] > 0.5
    assert model_mask.shape == seen.shape
    assert volume_ml(model_mask, seen) == pytest.approx(ML, rel=0.01)
    assert np.all(np.abs(centre_of(model_mask, seen) - CENTRE_MM) < 0.5)

    mask = preparation.restore(tensor[0, 0], interpolate=interpolate) > 0.5
    assert mask.shape == image.voxels.shape
    assert volume_ml(mask, image.grid) == pytest.approx(ML, rel=0.01)
    assert np.all(np.abs(centre_of(mask, image.grid) - CENTRE_MM) < 0.5)
    truth = image.voxels > 0
    assert 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth)) > 0.98


@pytest.mark.parametrize("interpolate", [False, True], ids=["nearest", "linear"])
@pytest.mark.parametrize("upwards", [True, False], ids=["upwards", "downwards"])
@pytest.mark.parametrize("tilt", [0.0, 18.5])
@pytest.mark.parametrize("orientation", [HEAD_FIRST, FEET_FIRST], ids=["HFS", "FFS"])
def test_to_cubes_along_the_patient_and_back(
    orientation: tuple[tuple[float, ...], tuple[float, ...]],
    tilt: float,
    upwards: bool,
    interpolate: bool,
    tmp_path: Path,
) -> None:
    """A model that wants cubes of 1 mm sees the phantom straight, of its true size and shape."""
    image = loaded(tmp_path, phantom_stack(orientation, tilt, upwards))
    even = EvenStack(image.grid)
    cubes = PatientGrid(even.spread(image.voxels).shape, even.affine, spacing_mm=1.0, axes="LIA")
    stage = stage_of(cubes.shape, {"step": "resample", "spacing_mm": 1.0, "axes": "LIA"}, TO_PROBABILITY)
    preparation = Preparation(image)
    tensor = preparation.tensor(stage)
    seen = tensor[0, 0] > 0.5
    points = np.argwhere(seen) @ cubes.affine[:3, :3].T + cubes.affine[:3, 3]
    assert np.count_nonzero(seen) / 1000 == pytest.approx(ML, rel=0.01)
    assert np.all(np.abs(points.mean(axis=0) - CENTRE_MM) < 0.5)
    assert np.all(np.abs(np.ptp(points, axis=0) / 2 - RADII_MM) < 3.5)

    mask = preparation.restore(tensor[0, 0], interpolate=interpolate) > 0.5
    assert volume_ml(mask, image.grid) == pytest.approx(ML, rel=0.01)
    assert np.all(np.abs(centre_of(mask, image.grid) - CENTRE_MM) < 0.5)
    truth = image.voxels > 0
    assert 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth)) > 0.98


def test_places_and_indices_are_inverse(tmp_path: Path) -> None:
    grid = loaded(tmp_path, phantom_stack(HEAD_FIRST, 18.5, True)).grid
    index = np.array([[-0.5, 0, 0], [0, 3, 4], [13.5, 10, 20], [14.25, 99.5, 0.5], [27.5, 1, 1]])
    assert np.allclose(grid.to_index(grid.to_patient(index)), index)


def test_two_slices_that_nearly_coincide_do_not_ask_for_thousands() -> None:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    even = EvenStack(Grid((4, 8, 8), affine, np.array([0.0, 5.0, 5.02, 10.0])))
    assert even.spread(np.zeros((4, 8, 8), np.float32)).shape == (13, 8, 8)


def test_a_large_stack_does_not_ask_for_more_than_memory_has() -> None:
    """A source of 1000 slices with 512 x 512 pixels: as many even slices, not four times as many."""
    places = np.arange(1000.0)
    places[500:] -= 0.75
    even = EvenStack(Grid((1000, 512, 512), np.eye(4), places))
    assert even.affine[0, 0] == pytest.approx(998.25 / 999)


@pytest.mark.parametrize("places", [[0.0, 1.0], [0.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
def test_places_must_fit(places: list[float]) -> None:
    with pytest.raises(ValueError, match="places"):
        Grid((3, 4, 4), np.eye(4), np.array(places))


def refused(places: list[float], folder: Path) -> UnsuitableImage:
    stack = Stack(places=places)
    hu = np.zeros((len(places), 8, 8), np.int16)
    with pytest.raises(UnsuitableImage) as caught:
        load_image(write_datasets(ct_series(hu, stack), folder), SPEC)
    return caught.value


def test_a_gap_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    error = refused([0, 4, 8, 12, 20, 27], tmp_path)
    assert error.reason == "coarse-spacing" and "8.00 mm" in str(error) and "7.5 mm" in str(error)


def test_a_missing_slice_is_still_missed(tmp_path: Path) -> None:
    error = refused([0, 3, 6, 9, 15, 18, 21], tmp_path)
    assert error.reason == "slice-gap" and "1 missing" in str(error)


def test_slices_beside_the_line_are_still_refused(tmp_path: Path) -> None:
    datasets = ct_series(np.zeros((6, 8, 8), np.int16), Stack(places=[0, 2, 4, 9, 14, 19]))
    datasets[2].ImagePositionPatient = ["-8", "-20", "34"]
    with pytest.raises(UnsuitableImage) as caught:
        load_image(write_datasets(datasets, tmp_path), SPEC)
    assert caught.value.reason == "uneven-spacing" and "beside its place" in str(caught.value)


def test_thicker_slices_in_a_row_are_no_gap(tmp_path: Path) -> None:
    """2.5 mm below and 5 mm above, a multiple: a protocol, where slices that are missing would leave single gaps."""
    places = [*(2.5 * n for n in range(20)), *(47.5 + 5.0 * n for n in range(1, 4))]
    image = load_image(
        write_datasets(ct_series(np.zeros((23, 8, 8), np.int16), Stack(places=places)), tmp_path), SPEC
    ).image
    assert isinstance(image, ImageVolume)
    assert image.grid.slice_distances_mm.tolist() == pytest.approx([2.5] * 19 + [5.0] * 3)
    assert image.grid.voxel_volumes_mm3[18:21].tolist() == pytest.approx([2.5, 3.75, 5.0])
