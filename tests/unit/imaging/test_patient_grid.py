"""A grid of cubes along the patient's axes: every sample where it says, and every label back on its voxel."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.errors import UnsuitableImage
from appliance.imaging.patient_grid import DIRECTIONS, PatientGrid
from appliance.imaging.preparation import Preparation
from appliance.manifest.manifest import StageSpec
from tests.support.dicom_factory import AXIAL, CORONAL, SAGITTAL, Stack
from tests.unit.imaging.test_preparation import stage, volume

OBLIQUE = ((0.8, 0.36, 0.48), (-0.6, 0.48, 0.64))
TILT_MM = (0.0, 0.7, 2.0)
STACKS = [
    Stack(*AXIAL, (2.0, 0.8, 1.3)),
    Stack(*SAGITTAL, (0.9, 0.9, 0.9)),
    Stack(*CORONAL, (1.5, 1.0, 1.0)),
    Stack(*OBLIQUE, (1.2, 1.0, 0.9)),
    Stack(*AXIAL, (2.0, 1.0, 1.0), step_mm=TILT_MM),
]
NAMES = ["axial", "sagittal", "coronal", "oblique", "tilted"]
SHAPE = (20, 24, 28)
SLOPES = np.array([0.7, -1.1, 0.4])


def positions(affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """LPS mm of every sample, ``[axes…, 3]``."""
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("axes", ["LIA", "RAS"])
@pytest.mark.parametrize("stack", STACKS, ids=NAMES)
class TestEveryStack:
    def test_the_grid_lies_along_the_patient(self, stack: Stack, axes: str) -> None:
        grid = PatientGrid(SHAPE, stack.affine(), spacing_mm=1.5, axes=axes)
        for column, letter in enumerate(axes):
            axis, sign = DIRECTIONS[letter]
            expected = np.zeros(3)
            expected[axis] = 1.5 * sign
            assert grid.affine[:3, column].tolist() == expected.tolist()
        middle = grid.affine @ [*[(size - 1) / 2 for size in grid.shape], 1]
        assert np.allclose(middle, stack.affine() @ [*[(size - 1) / 2 for size in SHAPE], 1])

    def test_every_sample_lies_where_it_says(self, stack: Stack, axes: str) -> None:
        """A ramp over the patient stays the same ramp wherever the source reaches."""
        affine = stack.affine()
        ramp = (positions(affine, SHAPE) @ SLOPES + 500).astype(np.float32)
        grid = PatientGrid(SHAPE, affine, spacing_mm=1.0, axes=axes)
        found = grid.resample(ramp)
        where = positions(grid.affine, grid.shape)
        index = (where - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
        inside = np.all((index >= 0) & (index <= np.array(SHAPE) - 1), axis=-1)
        assert inside.sum() > 1000
        assert np.allclose(found[inside], (where @ SLOPES + 500)[inside], atol=1e-2)
        beyond = np.any((index < -1) | (index > np.array(SHAPE)), axis=-1)
        assert np.all(found[beyond] == ramp.min())
        assert np.allclose(grid.restore(found, interpolate=True)[2:-2, 2:-2, 2:-2], ramp[2:-2, 2:-2, 2:-2], atol=2e-2)

    def test_every_voxel_gets_the_nearest_label(self, stack: Stack, axes: str) -> None:
        affine = stack.affine()
        grid = PatientGrid(SHAPE, affine, spacing_mm=0.93, axes=axes)
        labels = np.random.default_rng(1).integers(0, 255, grid.shape, dtype=np.uint8)
        restored = grid.restore(labels, interpolate=False)
        index = (positions(affine, SHAPE) - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
        assert index.min() > -0.5 and np.all(index.max(axis=(0, 1, 2)) < np.array(grid.shape) - 0.5)
        # Halfway between two cubes, either is right.
        clear = np.all(np.abs(index - np.floor(index) - 0.5) > 1e-3, axis=-1)
        expected = labels[tuple(np.moveaxis(np.rint(index).astype(int), -1, 0))]
        assert clear.mean() > 0.9
        assert np.array_equal(restored[clear], expected[clear])
        assert restored.dtype == np.uint8


@pytest.mark.parametrize("stack", STACKS, ids=NAMES)
def test_a_ball_comes_back_to_its_place(stack: Stack) -> None:
    """Through the very steps of a manifest, cropped as well: centre within half a voxel, volume within 3 %."""
    shape = (40, 50, 60)
    affine = stack.affine()
    centre = affine @ [19.0, 26.0, 31.0, 1]
    ball = np.linalg.norm(positions(affine, shape) - centre[:3], axis=-1) < 12
    steps = ({"step": "resample", "spacing_mm": 1.0, "axes": "LIA"}, {"step": "crop_to_foreground", "level": 40.0})
    profile = {"min": [1, 1, 16, 16, 16], "typical": [1, 1, 64, 64, 64]}
    free = StageSpec.model_validate(
        stage(*steps).model_dump() | {"input_shape": [1, 1, 128, 128, 128], "profile": profile}
    )
    preparation = Preparation(volume(ball * 100.0, stack))
    tensor = preparation.tensor(free)
    assert all(size % 16 == 0 and size < 64 for size in tensor.shape[2:])
    found = preparation.restore(tensor[0, 0] > 50, interpolate=False)
    assert found.shape == shape
    assert np.all(np.abs(np.argwhere(found).mean(axis=0) - np.argwhere(ball).mean(axis=0)) < 0.5)
    assert found.sum() == pytest.approx(ball.sum(), rel=0.03)


def test_a_size_that_the_network_does_not_take_is_refused() -> None:
    """Free axes leave the size to the image, within what the manifest says."""
    step = {"step": "resample", "spacing_mm": 1.0, "axes": "LIA"}
    profile = {"min": [1, 1, 16, 16, 16], "typical": [1, 1, 16, 16, 16]}
    limited = StageSpec.model_validate(
        stage(step).model_dump() | {"input_shape": [1, 1, 24, 24, 24], "profile": profile}
    )
    with pytest.raises(UnsuitableImage, match="found 28 × 20 × 24, expected 16 × 16 × 16 to 24 × 24 × 24") as caught:
        Preparation(volume(np.zeros(SHAPE), Stack())).tensor(limited)
    assert caught.value.reason == "unsuitable-size"


def test_no_more_memory_than_an_image_can_need() -> None:
    with pytest.raises(UnsuitableImage, match="no believable size at 1 mm: found 28 × 20000 × 24000") as caught:
        PatientGrid(SHAPE, np.diag([1000.0, 1000.0, 1.0, 1.0]), spacing_mm=1.0, axes="SLP")
    assert caught.value.reason == "too-large"
