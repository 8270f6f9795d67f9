"""Radiographs: brightness the right way up, windows, and millimetres only when they are honest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from appliance.domain.image import ProjectionImage
from appliance.imaging.loading import load_image
from appliance.imaging.projection import honest_spacing
from appliance.manifest.manifest import InputSpec
from tests.support.dicom_factory import chest_pixels, radiograph, write_datasets

PIXELS = chest_pixels(20, 16)


def loaded(dataset: Dataset, folder: Path, *, apply_voi: bool = False) -> ProjectionImage:
    image = load_image(write_datasets([dataset], folder), InputSpec(kind="projection", apply_voi=apply_voi)).image
    assert isinstance(image, ProjectionImage)
    return image


def test_monochrome2_is_kept(tmp_path: Path) -> None:
    assert np.array_equal(loaded(radiograph(PIXELS), tmp_path).pixels, PIXELS)


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    """What was stored brightest is black; the range stays."""
    pixels = loaded(radiograph(PIXELS, photometric="MONOCHROME1"), tmp_path).pixels
    assert np.array_equal(pixels, int(PIXELS.max()) + int(PIXELS.min()) - PIXELS.astype(np.float32))


def test_padding_of_an_inverted_image_is_dark(tmp_path: Path) -> None:
    stored = PIXELS.copy()
    stored[:3] = 4095
    dataset = radiograph(stored, photometric="MONOCHROME1")
    dataset.add_new("PixelPaddingValue", "US", 4095)
    pixels = loaded(dataset, tmp_path).pixels
    assert np.all(pixels[:3] == pixels.min())
    assert pixels.max() - pixels.min() == int(PIXELS[3:].max()) - int(PIXELS[3:].min())


def test_the_source_and_the_orientation_are_kept(tmp_path: Path) -> None:
    dataset = radiograph(PIXELS)
    image = loaded(dataset, tmp_path)
    assert image.frame.sop_instance_uid == dataset.SOPInstanceUID
    assert image.frame.frame_number is None
    assert image.modality == "DX"
    assert image.patient_orientation == ("L", "F")
    assert loaded(radiograph(PIXELS, "CR", orientation=None), tmp_path).patient_orientation is None


class TestValuesOfInterest:
    """PS3.3 section C.11.2."""

    RAMP = np.arange(0, 4000, 10, dtype=np.uint16).reshape(20, 20)

    def windowed(self, folder: Path, centre: object, width: object, function: str | None) -> np.ndarray:
        dataset = radiograph(self.RAMP)
        dataset.WindowCenter, dataset.WindowWidth = centre, width
        if function is not None:
            dataset.VOILUTFunction = function
        return loaded(dataset, folder, apply_voi=True).pixels

    @pytest.mark.parametrize("function", [None, "LINEAR"])
    def test_linear_window(self, function: str | None, tmp_path: Path) -> None:
        x = self.RAMP.astype(np.float64)
        expected = np.clip((x - (2000 - 0.5)) / (1001 - 1) + 0.5, 0, 1)
        assert np.allclose(self.windowed(tmp_path, "2000", "1001", function), expected, atol=1e-6)

    def test_exact_window(self, tmp_path: Path) -> None:
        expected = np.clip((self.RAMP.astype(np.float64) - 2000) / 1000 + 0.5, 0, 1)
        assert np.allclose(self.windowed(tmp_path, "2000", "1000", "LINEAR_EXACT"), expected, atol=1e-6)

    def test_sigmoid(self, tmp_path: Path) -> None:
        expected = 1 / (1 + np.exp(-4 * (self.RAMP.astype(np.float64) - 2000) / 500))
        assert np.allclose(self.windowed(tmp_path, "2000", "500", "SIGMOID"), expected, atol=1e-5)

    def test_the_first_of_several_windows_counts(self, tmp_path: Path) -> None:
        one = self.windowed(tmp_path, "2000", "1001", None)
        assert np.array_equal(self.windowed(tmp_path, ["2000", "100"], ["1001", "50"], None), one)

    @pytest.mark.parametrize(("centre", "width"), [("2000", "0"), ("2000", "1"), ("", "100"), ("2000", "")])
    def test_an_unusable_window_is_not_applied(self, centre: str, width: str, tmp_path: Path) -> None:
        assert np.array_equal(self.windowed(tmp_path, centre, width, None), self.RAMP)

    def test_a_lut_goes_before_a_window(self, tmp_path: Path) -> None:
        dataset = radiograph(np.array([[0, 100, 101], [102, 103, 4000]], np.uint16))
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [4, 100, 16])
        item.add_new("LUTData", "US", [5, 70, 800, 9000])
        dataset.VOILUTSequence = [item]
        assert loaded(dataset, tmp_path, apply_voi=True).pixels.tolist() == [[5, 5, 70], [800, 9000, 9000]]

    def test_a_malformed_lut_is_not_applied(self, tmp_path: Path) -> None:
        dataset = radiograph(PIXELS)
        dataset.VOILUTSequence = [Dataset()]
        assert np.array_equal(loaded(dataset, tmp_path, apply_voi=True).pixels, PIXELS)

    def test_without_a_window_nothing_is_applied(self, tmp_path: Path) -> None:
        dataset = radiograph(PIXELS)
        del dataset.WindowCenter, dataset.WindowWidth
        assert np.array_equal(loaded(dataset, tmp_path, apply_voi=True).pixels, PIXELS)


@pytest.mark.parametrize(
    ("attributes", "spacing_mm", "words"),
    [
        ({}, None, "no pixel spacing"),
        ({"ImagerPixelSpacing": ["0.2", "0.1"]}, None, "at the detector"),
        ({"PixelSpacing": ["0.2", "0.1"]}, None, "without calibration"),
        ({"PixelSpacing": ["0", "0"]}, None, "no pixel spacing"),
        ({"PixelSpacing": ["0.2", "0.1"], "ImagerPixelSpacing": ["0.2", "0.1"]}, None, "at the detector"),
        (
            {"PixelSpacing": ["0.18", "0.09"], "ImagerPixelSpacing": ["0.2", "0.1"]},
            (0.18, 0.09),
            "taken to be calibrated",
        ),
        ({"PixelSpacing": ["0.2", "0.1"], "PixelSpacingCalibrationType": "FIDUCIAL"}, (0.2, 0.1), "FIDUCIAL"),
        ({"PixelSpacing": ["0.2", "0.1"], "PixelSpacingCalibrationType": "GEOMETRY"}, (0.2, 0.1), "GEOMETRY"),
        (
            {"ImagerPixelSpacing": ["0.2", "0.1"], "EstimatedRadiographicMagnificationFactor": "1.25"},
            (0.16, 0.08),
            "magnification of 1.25",
        ),
        (
            {"ImagerPixelSpacing": ["0.2", "0.1"], "EstimatedRadiographicMagnificationFactor": "0"},
            None,
            "at the detector",
        ),
    ],
)
def test_spacing_is_honest(attributes: dict[str, object], spacing_mm: tuple[float, float] | None, words: str) -> None:
    """PS3.3 section 10.7.1.3: what is measured at the detector is not the size of what is in the patient."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    found, note = honest_spacing(dataset)
    assert found == (None if spacing_mm is None else pytest.approx(spacing_mm))
    assert words in note
