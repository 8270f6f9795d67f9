"""Voxels land where they are in the patient, whatever the orientation, the order of the files and the encoding."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from appliance.domain.image import ImageVolume
from appliance.imaging.loading import load_image
from appliance.manifest.manifest import InputSpec
from tests.support.dicom_factory import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Stack,
    ct_series,
    enhanced_ct,
    enhanced_mr,
    mr_series,
    write_datasets,
)

VOLUME = InputSpec(kind="volume")
OBLIQUE = ((0.8, 0.36, 0.48), (-0.6, 0.48, 0.64))
SHAPE = (7, 12, 9)
LANDMARKS = {(0, 0, 0): 3001, (2, 5, 8): 3002, (6, 11, 1): 3003, (3, 0, 4): 3004}


def landmarks(value_type: type[np.generic] = np.uint16) -> NDArray[np.generic]:
    """Voxels that are 0 but for some that are told apart by their value."""
    voxels = np.zeros(SHAPE, value_type)
    for index, value in LANDMARKS.items():
        voxels[index] = value
    return voxels


def loaded_volume(datasets: list[Dataset], folder: Path, spec: InputSpec = VOLUME) -> ImageVolume:
    image = load_image(write_datasets(datasets, folder), spec).image
    assert isinstance(image, ImageVolume)
    return image


@pytest.mark.parametrize("reverse", [False, True], ids=["ascending", "descending"])
@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize(
    ("row", "column"),
    [AXIAL, SAGITTAL, CORONAL, OBLIQUE],
    ids=["axial", "sagittal", "coronal", "oblique"],
)
def test_landmarks_are_where_they_were_put(
    tmp_path: Path, row: tuple[float, ...], column: tuple[float, ...], enhanced: bool, reverse: bool
) -> None:
    """Non-square pixels, slices in either direction: the affine maps each landmark to its place within 1e-3 mm."""
    normal = np.cross(row, column)
    step = tuple(float(x) for x in normal * (-2.5 if reverse else 2.5))
    stack = Stack(row, column, (2.5, 0.7, 1.3), (-31.4, 15.9, -26.5), step_mm=step)  # type: ignore[arg-type]
    voxels = landmarks()
    datasets = [enhanced_mr(voxels, stack)] if enhanced else mr_series(voxels, stack)  # type: ignore[arg-type]
    image = loaded_volume(datasets, tmp_path)
    for index, value in LANDMARKS.items():
        (found,) = np.argwhere(image.voxels == value)
        truth = stack.affine() @ (*index, 1)
        assert np.allclose(image.grid.to_patient(found), truth[:3], atol=1e-3)
    assert image.grid.spacing_mm == pytest.approx((2.5, 0.7, 1.3))
    assert image.grid.is_orthogonal


def test_slices_are_ordered_by_place_not_by_name_or_number(tmp_path: Path) -> None:
    datasets = mr_series(landmarks())  # type: ignore[arg-type]
    shuffled = random.Random(3).sample(datasets, len(datasets))
    for number, dataset in enumerate(shuffled):
        dataset.InstanceNumber = str(number + 1)
    loaded = load_image(write_datasets(shuffled, tmp_path), VOLUME)
    assert isinstance(loaded.image, ImageVolume)
    assert np.array_equal(loaded.image.voxels, landmarks())
    in_order = [dataset.SOPInstanceUID for dataset in datasets]
    assert [frame.sop_instance_uid for frame in loaded.image.frames] == in_order
    assert [dataset.SOPInstanceUID for dataset in loaded.datasets] == in_order
    assert all("PixelData" not in dataset for dataset in loaded.datasets)


def test_frames_of_an_enhanced_image_keep_their_numbers(tmp_path: Path) -> None:
    """Descending frames: the first slice of the volume is the last frame."""
    dataset = enhanced_ct(landmarks(np.int16), Stack(step_mm=(0.0, 0.0, -1.0)))  # type: ignore[arg-type]
    loaded = load_image(write_datasets([dataset], tmp_path), VOLUME)
    assert isinstance(loaded.image, ImageVolume)
    assert [frame.frame_number for frame in loaded.image.frames] == [7, 6, 5, 4, 3, 2, 1]
    assert len(loaded.datasets) == 1
    assert np.array_equal(loaded.image.voxels[::-1], landmarks())


def test_rescale_may_differ_from_slice_to_slice(tmp_path: Path) -> None:
    datasets = ct_series(np.full((4, 8, 8), 100, np.int16))
    for index, dataset in enumerate(datasets):
        dataset.RescaleSlope = str(index + 1)
    image = loaded_volume(datasets, tmp_path)
    assert image.voxels[:, 0, 0].tolist() == [1124 * slope - 1024 for slope in (1, 2, 3, 4)]


def test_rescale_may_differ_from_frame_to_frame(tmp_path: Path) -> None:
    dataset = enhanced_ct(np.full((3, 8, 8), 100, np.int16))
    del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        transform = Dataset()
        transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = str(index + 1), "-1024", "HU"
        group.PixelValueTransformationSequence = [transform]
    image = loaded_volume([dataset], tmp_path)
    assert image.voxels[:, 0, 0].tolist() == [100, 1224, 2348]


def test_orientation_may_jitter(tmp_path: Path) -> None:
    datasets = mr_series(landmarks())  # type: ignore[arg-type]
    datasets[3].ImageOrientationPatient = ["0.9999998", "0.0006", "0", "-0.0006", "0.9999998", "0"]
    assert loaded_volume(datasets, tmp_path).grid.shape == SHAPE


def test_positions_may_be_rounded(tmp_path: Path) -> None:
    """0.65 mm apart, written with one decimal: steps of 0.6 and 0.7 mm, and no drift."""
    datasets = mr_series(landmarks(), Stack(spacing_mm=(0.65, 1.0, 1.0)))  # type: ignore[arg-type]
    for dataset in datasets:
        dataset.ImagePositionPatient = [f"{float(value):.1f}" for value in dataset.ImagePositionPatient]
    assert loaded_volume(datasets, tmp_path).grid.spacing_mm[0] == pytest.approx(0.65, abs=0.02)


def test_a_tilted_stack_keeps_its_shear_where_it_is_allowed(tmp_path: Path) -> None:
    stack = Stack(spacing_mm=(3.0, 1.0, 1.0), step_mm=(0.0, 1.0, 3.0))
    image = loaded_volume(mr_series(landmarks(), stack), tmp_path, InputSpec(kind="volume", allow_tilt=True))  # type: ignore[arg-type]
    assert not image.grid.is_orthogonal
    assert np.allclose(image.grid.affine, stack.affine())
    assert image.grid.voxel_volumes_mm3 == pytest.approx(3.0)


@pytest.mark.parametrize("agent", ["Ultravist 370", "IV", "80 ml", "Normal saline"])
def test_a_contrast_agent_is_noticed(agent: str, tmp_path: Path) -> None:
    """What is not known to mean none is taken for an agent; one image that names it is enough."""
    datasets = ct_series(landmarks(np.int16))  # type: ignore[arg-type]
    datasets[4].ContrastBolusAgent = agent
    assert loaded_volume(datasets, tmp_path).contrast_agent


@pytest.mark.parametrize("agent", ["", "NONE", " - ", "no", "N/A", "Native", "0"])
def test_no_contrast_agent_in_many_words(agent: str, tmp_path: Path) -> None:
    datasets = ct_series(landmarks(np.int16))  # type: ignore[arg-type]
    for dataset in datasets[:4]:
        dataset.ContrastBolusAgent = agent
    assert not loaded_volume(datasets, tmp_path).contrast_agent


def test_a_contrast_agent_of_an_enhanced_image_is_noticed(tmp_path: Path) -> None:
    dataset = enhanced_ct(landmarks(np.int16))  # type: ignore[arg-type]
    dataset.ContrastBolusAgentSequence = [Dataset()]
    assert loaded_volume([dataset], tmp_path).contrast_agent
