"""Synthetic examples on disk, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.dicom_factory import SAGITTAL, Stack, chest_pixels, mr_series, mr_voxels, radiograph, write_datasets
from tests.unit.results.examples import Example, radiograph_example, volume_example


@pytest.fixture(scope="session")
def mr_paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A sagittal MR series of 12 slices with pixels of 0.9 × 0.8 mm."""
    stack = Stack(*SAGITTAL, spacing_mm=(3.0, 0.9, 0.8))
    return write_datasets(mr_series(mr_voxels(12, 40, 48), stack), tmp_path_factory.mktemp("mr"))


@pytest.fixture
def mr(mr_paths: list[Path]) -> Example:
    return volume_example(mr_paths)


@pytest.fixture(scope="session")
def dx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chest radiograph (DX)."""
    return write_datasets([radiograph(chest_pixels(200, 160))], tmp_path_factory.mktemp("dx"))[0]


@pytest.fixture
def dx(dx_path: Path) -> Example:
    return radiograph_example(dx_path)
