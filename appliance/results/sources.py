"""The data sets that a result was made from, and the few look-ups that the writers need.

Sources come from every kind of device, so nothing here trusts a value: text is taken as it is stored, numbers are
parsed leniently, and an attribute that cannot be read counts as absent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from appliance.domain.image import Image, ImageVolume, SourceFrame
from appliance.domain.uids import derived_uid
from appliance.errors import ResultError


@dataclass(frozen=True, slots=True)
class Plane:
    """Where one frame lies, as its source states it (PS3.3 section C.7.6.2).

    ``position_mm`` is the centre of the first voxel (LPS), ``orientation`` the direction of increasing column index,
    then of increasing row index; ``pixel_spacing_mm`` is row, then column spacing.
    """

    position_mm: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    pixel_spacing_mm: tuple[float, float]


@dataclass(frozen=True, slots=True)
class PixelTransform:
    """What makes values of stored pixels (PS3.3 section C.11.1): ``slope`` is ``None`` where nothing does.

    ``inverse``: larger values are shown darker (MONOCHROME1).
    """

    slope: float | None
    intercept: float
    inverse: bool


class SourceImages:
    """The source data sets of one result, in the slice order of its image.

    Parameters
    ----------
    datasets
        Data sets without pixels: one for each slice of a classic series, one for a radiograph, one for each
        enhanced multi-frame image (mostly there is one). They are read, never changed, and stay the caller's.

    Raises
    ------
    ResultError
        There is none, or one lacks a UID that every reference needs.
    """

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        self.datasets = tuple(datasets)
        if not self.datasets:
            raise ResultError("a result needs source images", found="none", expected="at least one data set")
        needed = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
        for keyword in needed:
            if not all(text(dataset, keyword) for dataset in self.datasets):
                raise ResultError(f"a source image has no {keyword}", mend="Send the images again from the modality")

    @property
    def first(self) -> Dataset:
        """The data set whose patient, study and order attributes the results repeat."""
        return self.datasets[0]

    @cached_property
    def study_instance_uid(self) -> str:
        return text(self.first, "StudyInstanceUID")

    @cached_property
    def series_instance_uid(self) -> str:
        return text(self.first, "SeriesInstanceUID")

    @cached_property
    def sop_instance_uid(self) -> str:
        """UID of the first (for one-instance models: the only) source image."""
        return text(self.first, "SOPInstanceUID")

    @cached_property
    def instances(self) -> tuple[tuple[str, str], ...]:
        """SOP Class UID and SOP Instance UID of each data set, in order."""
        return tuple((text(dataset, "SOPClassUID"), text(dataset, "SOPInstanceUID")) for dataset in self.datasets)

    @cached_property
    def _by_uid(self) -> dict[str, Dataset]:
        return {uid: dataset for (_, uid), dataset in zip(self.instances, self.datasets, strict=True)}

    def dataset_of(self, frame: SourceFrame) -> Dataset:
        """The data set that holds ``frame``."""
        return self._by_uid[frame.sop_instance_uid]

    def check_against(self, image: Image) -> None:
        """Make sure that these are the sources of ``image``, in its order.

        Raises
        ------
        ResultError
            They are not: a mask written against them would lie on other slices.
        """
        frames = image.frames if isinstance(image, ImageVolume) else (image.frame,)
        if list(dict.fromkeys(frame.sop_instance_uid for frame in frames)) != list(self._by_uid):
            raise ResultError(
                "the source data sets are not the frames of the image, in its order",
                found=f"{len(self.datasets)} data set(s)",
                expected=f"those of {len(frames)} frame(s)",
            )

    def frame_of_reference_uid(self, image: ImageVolume) -> str:
        """UID of the coordinate system of ``image``.

        Volumes whose sources name none get one of their own: the objects that we write for them then agree with
        each other, and claim nothing about other series.
        """
        return image.frame_of_reference_uid or derived_uid(
            self.study_instance_uid, self.series_instance_uid, "frame of reference"
        )

    def plane(self, image: ImageVolume, index: int) -> Plane:
        """Where slice ``index`` (base 0) of ``image`` lies: as its source says, else as the grid has it."""
        frame = image.frames[index]
        dataset = self.dataset_of(frame)
        if frame.frame_number is None:
            position = numbers(dataset, "ImagePositionPatient")
            orientation = numbers(dataset, "ImageOrientationPatient")
            spacing = numbers(dataset, "PixelSpacing")
        else:
            position = numbers(self._group(frame, "PlanePositionSequence"), "ImagePositionPatient")
            orientation = numbers(self._group(frame, "PlaneOrientationSequence"), "ImageOrientationPatient")
            spacing = numbers(self._group(frame, "PixelMeasuresSequence"), "PixelSpacing")
        if len(position) == 3 and len(orientation) == 6 and len(spacing) == 2:
            return Plane(
                (position[0], position[1], position[2]),
                (*orientation[:3], *orientation[3:]),  # type: ignore[arg-type]
                (spacing[0], spacing[1]),
            )
        affine = image.grid.affine
        _, row_spacing, column_spacing = image.grid.spacing_mm
        x, y, z = image.grid.to_patient((float(index), 0.0, 0.0)).tolist()
        row = (affine[:3, 2] / column_spacing).tolist()
        column = (affine[:3, 1] / row_spacing).tolist()
        return Plane((x, y, z), (*row, *column), (row_spacing, column_spacing))

    def slice_thickness_mm(self, image: ImageVolume, index: int) -> float:
        """Slice Thickness (0018,0050) of slice ``index`` (base 0), else the slice spacing of the grid."""
        frame = image.frames[index]
        holder = self.dataset_of(frame) if frame.frame_number is None else self._group(frame, "PixelMeasuresSequence")
        thickness = numbers(holder, "SliceThickness")
        return thickness[0] if thickness and thickness[0] > 0 else image.grid.spacing_mm[0]

    def window(self, frame: SourceFrame) -> tuple[float, float] | None:
        """First Window Center and Window Width (0028,1050), (0028,1051) that ``frame`` is sent with, if any."""
        dataset = self.dataset_of(frame)
        holder = dataset if frame.frame_number is None else self._group(frame, "FrameVOILUTSequence")
        center, width = numbers(holder, "WindowCenter"), numbers(holder, "WindowWidth")
        return (center[0], width[0]) if center and width and width[0] > 0 else None

    def transform(self, frame: SourceFrame) -> PixelTransform:
        """Rescale Slope and Intercept (0028,1053), (0028,1052) of ``frame``, and which way its grey goes."""
        dataset = self.dataset_of(frame)
        holder = dataset if frame.frame_number is None else self._group(frame, "PixelValueTransformationSequence")
        slope, intercept = numbers(holder, "RescaleSlope"), numbers(holder, "RescaleIntercept")
        inverse = text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
        if slope and intercept and slope[0] != 0:
            return PixelTransform(slope[0], intercept[0], inverse)
        return PixelTransform(None, 0.0, inverse)

    def pixel_aspect(self) -> float:
        """Row spacing over column spacing of a single image: 1.0 for square pixels, also when nothing is said."""
        for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
            pair = numbers(self.first, keyword)
            if len(pair) == 2 and min(pair) > 0:
                return pair[0] / pair[1]
        return 1.0

    def _group(self, frame: SourceFrame, keyword: str) -> Dataset:
        """The functional group ``keyword`` of ``frame``: its own, else the shared one, else an empty data set."""
        dataset = self.dataset_of(frame)
        own = dataset.PerFrameFunctionalGroupsSequence[(frame.frame_number or 1) - 1]
        shared = dataset.get("SharedFunctionalGroupsSequence")
        for groups in (own, shared[0] if shared else Dataset()):
            group = groups.get(keyword)
            if group:
                return cast(Dataset, group[0])
        return Dataset()


def text(dataset: Dataset, keyword: str) -> str:
    """The value of ``keyword`` as text, values joined by a backslash; empty when absent.

    A value that has not been parsed yet is read from its bytes: pydicom would check it against its VR, and warn or
    raise about values that are no business of ours.
    """
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in dataset:
        return ""
    raw = unparsed(dataset, tag)
    if raw is not None and raw.value is not None:
        return raw.value.decode("ascii", "replace").strip(" \0")
    value = dataset[tag].value
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    return "\\".join(str(part) for part in value) if isinstance(value, Sequence) else str(value)


def unparsed(dataset: Dataset, tag: int) -> RawDataElement | None:
    """The element at ``tag`` as its bytes, or ``None`` when it is absent or has been parsed already."""
    element = cast(object, dataset.get_item(tag))
    return element if isinstance(element, RawDataElement) else None


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """The values of a decimal or integer string as finite numbers; empty when absent or any of them is malformed."""
    try:
        values = [float(part) for part in text(dataset, keyword).split("\\")]
    except ValueError:
        return []
    return values if all(math.isfinite(value) for value in values) else []
