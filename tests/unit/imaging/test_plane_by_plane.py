"""Resampling plane by plane is what scipy makes of the same grids, and leaves to it what does not lie that way."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from appliance.imaging.plane_by_plane import PlaneByPlane

SHAPE, TARGET = (9, 11, 13), (14, 10, 12)
TURNED = np.array([[0.0, 0.0, -0.7], [1.1, 0.0, 0.0], [0.0, 0.9, 0.0]])
TURNED_OFFSET = np.array([8.3, -1.6, 0.4])
TILTED = np.array([[0.0, 0.11, -0.7], [1.1, 0.0, 0.0], [0.0, 0.9, 0.0]])


@pytest.mark.parametrize("rows", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
@pytest.mark.parametrize("matrix", [TURNED, TILTED, TILTED[:, [2, 0, 1]]])
def test_it_is_what_scipy_makes(matrix: np.ndarray, rows: tuple[int, ...]) -> None:
    matrix, offset = matrix[list(rows)], TURNED_OFFSET[list(rows)]
    voxels = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32) * 1000
    planes = PlaneByPlane(matrix, offset, TARGET)
    assert planes.possible
    found = planes.resample(voxels, -7.0)
    expected = ndimage.affine_transform(
        voxels, matrix, offset, output_shape=TARGET, order=1, mode="constant", cval=-7.0
    )
    assert np.allclose(found, expected, atol=1e-3)
    assert 0 < np.count_nonzero(found == -7.0) < found.size


def test_samples_that_lie_on_the_edges_are_inside() -> None:
    voxels = np.random.default_rng(4).normal(size=SHAPE).astype(np.float32)
    planes = PlaneByPlane(np.eye(3), np.zeros(3), SHAPE)
    assert np.array_equal(planes.resample(voxels, -7.0), voxels)


def test_one_source_sample_along_an_axis() -> None:
    voxels = np.ones((1, 4, 5), np.float32)
    assert np.array_equal(PlaneByPlane(np.eye(3), np.zeros(3), (2, 4, 5)).resample(voxels, 0.0)[:, 0, 0], [1, 0])


@pytest.mark.parametrize(
    "matrix",
    [
        np.array([[0.8, 0.36, 0.48], [-0.6, 0.48, 0.64], [0.0, -0.8, 0.6]]),
        np.array([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]),
    ],
    ids=["oblique", "turned about an axis"],
)
def test_what_is_turned_is_left_to_others(matrix: np.ndarray) -> None:
    assert not PlaneByPlane(matrix, np.zeros(3), TARGET).possible
