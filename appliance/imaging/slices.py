"""Slices: the frames of classic and enhanced images, each with its place in the patient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from appliance.domain.image import SourceFrame
from appliance.errors import UnsuitableImage
from appliance.imaging.file import ImageFile
from appliance.imaging.pixels import frame_count


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One frame.

    Attributes
    ----------
    position_mm
        float64 ``[3]``: centre of the first pixel, LPS (PS3.3 section C.7.6.2.1.1).
    orientation
        float64 ``[2, 3]``: directions of increasing column index, then of increasing row index.
    spacing_mm
        Between rows, then between columns.
    frame_index
        Base 0, within ``file``.
    attributes
        What else the header says of this frame.
    slope, intercept
        The rescale of this frame's stored values (PS3.3 section C.11.1).
    """

    file: ImageFile
    frame_index: int
    attributes: FrameAttributes
    position_mm: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float
    source: SourceFrame


def slices_of(file: ImageFile) -> Iterator[Slice]:
    """Yield the frames of a file in the order in which it has them.

    Raises
    ------
    UnsuitableImage
        ``missing-geometry`` when a frame does not say where it is; ``malformed-header``.
    """
    dataset = file.dataset
    count = frame_count(dataset)
    if "PerFrameFunctionalGroupsSequence" in dataset:
        groups = dataset.PerFrameFunctionalGroupsSequence
        if len(groups) != count:
            raise UnsuitableImage(
                "malformed-header",
                "the functional groups do not match the frames",
                found=f"{len(groups)} groups",
                expected=f"{count}",
            )
        shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
        for index, group in enumerate(groups):
            yield _slice(file, index, FrameAttributes(group, shared[0]), SourceFrame(
                str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), index + 1
            ))  # fmt: skip
        return
    if count != 1:
        raise UnsuitableImage(
            "missing-geometry", "a multi-frame image without functional groups does not say where its frames are"
        )
    yield _slice(file, 0, FrameAttributes(dataset), SourceFrame(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)))


_USABLE = 1e15
"""Largest size of a rescale: times 32 bits it leaves float32 room."""

_MACRO = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
}
"""The functional group macro that holds an attribute of a frame (PS3.3 section C.7.6.16.2)."""


class FrameAttributes:
    """Looks an attribute up in a frame's functional groups, then in the shared ones; or in a classic data set."""

    def __init__(self, *datasets: Dataset) -> None:
        self._datasets = datasets

    def get(self, keyword: str) -> Any:
        """The value, ``None`` when no group has it."""
        for dataset in self._datasets:
            macro = dataset.get(_MACRO[keyword]) if keyword in _MACRO else None
            found = macro[0].get(keyword) if macro else dataset.get(keyword)
            if found is not None:
                return found
        return None


def _slice(file: ImageFile, index: int, attributes: FrameAttributes, source: SourceFrame) -> Slice:
    position = _numbers(attributes, "ImagePositionPatient", 3)
    orientation = _numbers(attributes, "ImageOrientationPatient", 6).reshape(2, 3)
    spacing = _numbers(attributes, "PixelSpacing", 2)
    if np.any(spacing <= 0):
        raise UnsuitableImage("missing-geometry", "Pixel Spacing is not positive")
    lengths = np.linalg.norm(orientation, axis=1)
    if np.any(np.abs(lengths - 1) > 0.01) or abs(float(orientation[0] @ orientation[1])) > 0.01:
        raise UnsuitableImage("missing-geometry", "Image Orientation (Patient) is not two perpendicular unit vectors")
    slope, intercept = rescale_of(attributes)
    return Slice(
        file, index, attributes, position, orientation / lengths[:, None], (float(spacing[0]), float(spacing[1])),
        slope, intercept, source,
    )  # fmt: skip


def rescale_of(attributes: FrameAttributes) -> tuple[float, float]:
    """Rescale Slope and Intercept; 1 and 0 when absent or empty.

    Raises
    ------
    UnsuitableImage
        ``malformed-header`` when they are no numbers, or so large or small that values in float32 would be lost.
    """
    slope, intercept = attributes.get("RescaleSlope"), attributes.get("RescaleIntercept")
    try:
        numbers = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
    except (TypeError, ValueError):
        numbers = (0.0, 0.0)
    slope_size, intercept_size = np.abs(numbers)
    if not (1 / _USABLE <= slope_size <= _USABLE and intercept_size <= _USABLE):
        raise UnsuitableImage("malformed-header", "Rescale Slope or Intercept is not a usable number")
    return numbers


def _numbers(attributes: FrameAttributes, keyword: str, count: int) -> NDArray[np.float64]:
    value = attributes.get(keyword)
    try:
        numbers = np.array([float(number) for number in value], dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise UnsuitableImage(
            "missing-geometry",
            f"{keyword} is absent or not {count} numbers",
            expected="an image with geometry (PS3.3 section C.7.6.2)",
            mend="Send the original images, not screen captures",
        )
    return numbers
