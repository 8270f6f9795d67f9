"""Distances and parts in the patient: the same for thin slices, thick ones, tilted ones and varying ones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.domain.geometry import Grid
from appliance.readout.parts import eroded, without_small_parts
from appliance.readout.quantities import volume_ml

CENTRE_MM = np.array([30.0, 30.0, 30.0])


def grid_of(slice_mm: float, tilt: float = 0.0, places: list[float] | None = None) -> Grid:
    """Slices over 60 mm and more; ``tilt`` is by how many mm each is moved along the rows, for each mm."""
    count = int(60 / slice_mm) + 1 if places is None else len(places)
    affine = np.zeros((4, 4))
    affine[:3, 0] = (0.0, tilt * slice_mm, slice_mm)
    affine[:3, 1] = (0.0, 0.8, 0.0)
    affine[:3, 2] = (0.7, 0.0, 0.0)
    affine[:, 3] = (0.0, -30.0 * tilt, 0.0, 1.0)
    return Grid((count, 76, 87), affine, None if places is None else np.array(places))


def ball(grid: Grid, radius_mm: float) -> NDArray[np.bool_]:
    points = grid.to_patient(np.moveaxis(np.indices(grid.shape), 0, -1))
    return np.asarray(((points - CENTRE_MM) ** 2).sum(axis=-1) <= radius_mm**2)


def ml(radius_mm: float) -> float:
    return float(4 / 3 * np.pi * radius_mm**3) / 1000


@pytest.mark.parametrize("tilt", [0.0, 0.35, -0.35])
def test_a_ball_in_thin_slices_loses_a_shell(tilt: float) -> None:
    """A voxel of the inside is whole where all that it touches is inside: up to a voxel more is lost, never less."""
    grid = grid_of(0.5, tilt)
    found = volume_ml(eroded(ball(grid, 25.0), grid, 4.0), grid)
    assert ml(20.0) < found < ml(21.2)


@pytest.mark.parametrize("tilt", [0.0, 0.35])
def test_slices_that_touch_the_outside_go_however_thick(tilt: float) -> None:
    grid = grid_of(6.0, tilt)
    before = ball(grid, 25.0)
    after = eroded(before, grid, 2.0)
    (occupied,) = np.nonzero(before.any(axis=(1, 2)))
    (left,) = np.nonzero(after.any(axis=(1, 2)))
    assert left.tolist() == occupied[1:-1].tolist()
    # What is left lies in the slices above and below too: under it is no partial volume, wherever a tilt puts it.
    points = grid.to_patient(np.argwhere(after))
    for move in (-6.0, 6.0):
        assert np.all(np.linalg.norm(points + np.array([0, 0, move]) - CENTRE_MM, axis=1) < 25.0)


def test_beyond_the_stack_is_no_outside() -> None:
    grid = grid_of(2.0)
    mask = np.zeros(grid.shape, np.bool_)
    mask[:, 20:50, 20:50] = True
    after = eroded(mask, grid, 3.0)
    assert after[0].any() and np.array_equal(after[0], after[15])
    rows, columns = np.nonzero(after[0])
    # 3 mm are three rows of 0.8 mm and four columns of 0.7 mm; the next is farther than 3 mm from the outside.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (23, 46, 24, 45)


def test_nothing_to_take_away() -> None:
    grid = grid_of(2.0)
    mask = ball(grid, 20.0)
    assert eroded(mask, grid, 0.0) is mask and without_small_parts(mask, grid, 0.0) is mask
    assert not eroded(np.zeros_like(mask), grid, 2.0).any() and not without_small_parts(~(mask | True), grid, 1.0).any()
    assert not eroded(ball(grid, 2.0), grid, 30.0).any()


@pytest.mark.parametrize("tilt", [0.0, 0.5])
def test_parts_are_measured_in_millilitres(tilt: float) -> None:
    """A thin column, upright in the patient, in slices of 3 and of 6 mm: one part, also where slices are tilted."""
    places = [0.0, 1, 2, 3, 4, 6, 8, 10, 12, 14]
    grid = grid_of(3.0, tilt, places)
    points = grid.to_patient(np.moveaxis(np.indices(grid.shape), 0, -1))
    column = (np.abs(points[..., 0] - 30) < 1.1) & (np.abs(points[..., 1] - 30) < 1.3)
    crumb = np.zeros(grid.shape, np.bool_)
    crumb[2, 5:8, 5:8] = True
    size = volume_ml(column, grid)
    assert 0.2 < size < 0.4
    kept = without_small_parts(column | crumb, grid, size * 0.99)
    assert np.array_equal(kept, column)
    assert not without_small_parts(column | crumb, grid, size * 1.01).any()
