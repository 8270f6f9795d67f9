"""Radiographs: brightness the right way up, and millimetres only when they are honest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from appliance.domain.image import ProjectionImage, SourceFrame
from appliance.errors import UnsuitableImage
from appliance.imaging.file import ImageFile
from appliance.imaging.pixels import fill_padding, frame_count, physical_values
from appliance.imaging.slices import FrameAttributes, rescale_of
from appliance.imaging.voi import displayed
from appliance.manifest.manifest import InputSpec


def projection_of(file: ImageFile, stored: NDArray[Any], spec: InputSpec) -> ProjectionImage:
    """Return the radiograph in a file.

    Parameters
    ----------
    stored
        Its stored values ``[1, row, column]``.

    Raises
    ------
    UnsuitableImage
        ``several-images`` when it is multi-frame, ``coarse-spacing``, and the reasons of ``imaging/pixels``.
    """
    dataset = file.dataset
    if frame_count(dataset) != 1:
        raise UnsuitableImage(
            "several-images", "the model judges one radiograph", found=f"{frame_count(dataset)} frames"
        )
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    pixels = physical_values(stored[0], dataset, *rescale_of(FrameAttributes(dataset)))
    if "PixelPaddingValue" in dataset:
        fill_padding(pixels, bright=inverted)
    if spec.apply_voi:
        pixels = displayed(pixels, dataset)
    if inverted:
        np.subtract(pixels.max() + pixels.min(), pixels, out=pixels)
    spacing, note = honest_spacing(dataset)
    if spacing is not None and spec.max_pixel_spacing_mm is not None and max(spacing) > spec.max_pixel_spacing_mm:
        raise UnsuitableImage(
            "coarse-spacing",
            "the pixel spacing is too coarse for this model",
            found=f"{max(spacing):.2f} mm",
            expected=f"at most {spec.max_pixel_spacing_mm:g} mm",
        )
    return ProjectionImage(
        pixels=np.ascontiguousarray(pixels, dtype=np.float32),
        pixel_spacing_mm=spacing,
        spacing_note=note,
        patient_orientation=_orientation(dataset),
        frame=SourceFrame(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)),
        modality=str(dataset.get("Modality", "")),
    )


def honest_spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str]:
    """Return row and column spacing in mm in the plane of the patient, or ``None``, and the reason in words.

    Spacing at the detector (Imager Pixel Spacing) is not that of the patient: structures are magnified by 5 to 40 %
    (PS3.3 section 10.7.1.3).
    """
    pixel = _spacing(dataset, "PixelSpacing")
    imager = _spacing(dataset, "ImagerPixelSpacing")
    if pixel is not None and dataset.get("PixelSpacingCalibrationType") in ("GEOMETRY", "FIDUCIAL"):
        return pixel, f"Pixel spacing calibrated by the device ({dataset.PixelSpacingCalibrationType})."
    if imager is not None:
        try:
            magnification = float(dataset.get("EstimatedRadiographicMagnificationFactor") or 0)
        except (TypeError, ValueError):
            magnification = 0.0
        if magnification >= 1:
            row, column = imager[0] / magnification, imager[1] / magnification
            return (row, column), f"Detector spacing corrected for a magnification of {magnification:g}."
        if pixel is not None and not np.allclose(pixel, imager, rtol=1e-3):
            return pixel, "Pixel spacing differs from the detector's, so it is taken to be calibrated."
        return None, "Only the spacing at the detector is known, which is magnified: sizes are given in pixels."
    if pixel is not None:
        return None, "Pixel spacing without calibration may be that of the detector: sizes are given in pixels."
    return None, "The image has no pixel spacing: sizes are given in pixels."


def _spacing(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    try:
        row, column = (float(number) for number in dataset.get(keyword) or ())
    except (TypeError, ValueError):
        return None
    return (row, column) if row > 0 and column > 0 else None


def _orientation(dataset: Dataset) -> tuple[str, str] | None:
    value = dataset.get("PatientOrientation")
    if not value or len(value) != 2 or not all(value):
        return None
    return str(value[0]).upper(), str(value[1]).upper()
