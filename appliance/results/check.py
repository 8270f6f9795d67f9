"""Does an object read back as what was meant? Each check compares a parsed file with the result itself."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from appliance.domain.image import ImageVolume
from appliance.domain.result import InferenceResult, Measurement
from appliance.errors import ResultError
from appliance.results.readback import ReportedMeasurement, read_report, read_segmentation
from appliance.results.sources import unparsed

# A frame counts as placed right when it lies this close to its slice, in slice spacings.
_PLACE_TOLERANCE = 0.5
_GRAPHIC_DATA = 0x00700022


def parsed(content: bytes, sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """Parse a file and make sure that it is the object it should be.

    Raises
    ------
    ResultError
        It is not DICOM, or has other UIDs.
    """
    try:
        dataset = dcmread(BytesIO(content))
    except (InvalidDicomError, EOFError, ValueError) as error:
        raise ResultError("a result object does not read back", found=type(error).__name__) from error
    names = (dataset.file_meta.MediaStorageSOPInstanceUID, dataset.get("SOPInstanceUID"))
    if any(name != sop_instance_uid for name in names) or dataset.get("SOPClassUID") != sop_class_uid:
        raise ResultError("a result object reads back with other UIDs than it was written with")
    return dataset


def check_report(dataset: Dataset, result: InferenceResult) -> None:
    """Compare the numbers of a report with the measurements of ``result``.

    Raises
    ------
    ResultError
        One is missing, added, elsewhere or differs by more than half of its last printed digit.
    """
    groups = [(finding.tracking_id, finding.measurements) for finding in result.findings]
    expected = [item for _, measurements in [*groups, ("", result.overall)] for item in measurements]
    found = read_report(dataset)
    if len(found) != len(expected):
        raise ResultError(
            "the report does not hold all measurements", found=str(len(found)), expected=str(len(expected))
        )
    for reported, measurement in zip(found, expected, strict=True):
        if not _same(reported, measurement):
            raise ResultError(
                f"the report does not repeat the measurement {measurement.concept.meaning!r}",
                found=f"{reported.numeric_value} {reported.unit.value}",
                expected=measurement.shown(),
            )


def _same(reported: ReportedMeasurement, measurement: Measurement) -> bool:
    # The sum of both roundings: to printed digits, and of binary to decimal.
    tolerance = 0.5 * 10.0**-measurement.digits + 1e-9 * abs(measurement.value)
    return (
        (reported.concept.value, reported.concept.scheme) == (measurement.concept.value, measurement.concept.scheme)
        and reported.unit.value == measurement.unit.value
        and abs(reported.value - measurement.value) <= tolerance
    )


def check_segmentation(dataset: Dataset, result: InferenceResult) -> None:
    """Compare each frame of a segmentation with the mask it came from, voxel by voxel, and with its place.

    Raises
    ------
    ResultError
        A frame differs, lies elsewhere, refers to another image, or one with voxels is missing.
    """
    image = result.image
    frames = image.frames if isinstance(image, ImageVolume) else (image.frame,)
    index_of = {(frame.sop_instance_uid, frame.frame_number): index for index, frame in enumerate(frames)}
    masks = [segment.mask.reshape(len(frames), *segment.mask.shape[-2:]) for segment in result.segments]
    unseen: list[NDArray[np.bool_]] = [np.asarray(mask.reshape(len(frames), -1).any(axis=1)) for mask in masks]
    for frame in read_segmentation(dataset):
        index = index_of.get(frame.source)
        number = frame.segment_number
        if index is None or not 1 <= number <= len(masks):
            raise ResultError("a frame of the segmentation refers to an image that was not judged")
        if not np.array_equal(frame.mask, masks[number - 1][index]):
            raise ResultError(f"the mask of segment {number} does not read back as it was written")
        if isinstance(image, ImageVolume) and (
            frame.position_mm is None
            or abs(float(image.grid.to_index(frame.position_mm)[0]) - index) > _PLACE_TOLERANCE
        ):
            raise ResultError(f"a frame of segment {number} does not lie on its slice")
        unseen[number - 1][index] = False
    if any(voxels.any() for voxels in unseen):
        raise ResultError("the segmentation lacks frames that have voxels")


def check_capture(dataset: Dataset, capture: Dataset) -> None:
    """Compare the pixels of a parsed capture with those that were drawn.

    Raises
    ------
    ResultError
        Their number or any of them differs.
    """
    expected = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    if len(dataset.PixelData) != expected + expected % 2 or dataset.PixelData != capture.PixelData:
        raise ResultError("the capture does not read back as it was drawn")


def check_document(dataset: Dataset, meant: Dataset) -> None:
    """Compare a parsed document with the one that was set.

    Raises
    ------
    ResultError
        A byte differs, or its end is missing.
    """
    if dataset.EncapsulatedDocument != meant.EncapsulatedDocument or not dataset.EncapsulatedDocument.startswith(
        b"%PDF-"
    ):
        raise ResultError("the draft report does not read back as it was set")


def check_key_objects(dataset: Dataset, meant: Dataset) -> None:
    """Compare the images that a parsed selection names with those that were selected.

    Raises
    ------
    ResultError
        One is missing, added or elsewhere.
    """
    if _selected(dataset) != _selected(meant):
        raise ResultError("the key object selection does not read back with the images that were selected")


def _selected(dataset: Dataset) -> list[tuple[str, str]]:
    images = [item.ReferencedSOPSequence[0] for item in dataset.ContentSequence if item.ValueType == "IMAGE"]
    return [(str(item.ReferencedSOPInstanceUID), str(item.get("ReferencedFrameNumber"))) for item in images]


def check_presentation(dataset: Dataset, meant: Dataset) -> None:
    """Compare the outlines of a parsed presentation state, and what they lie on, with those that were drawn.

    Raises
    ------
    ResultError
        Their number, a point of any of them, or an image differs.
    """
    found, expected = list(_outlines(dataset)), list(_outlines(meant))
    if len(found) != len(expected) or any(
        image != other or not np.array_equal(points, drawn)
        for (image, points), (other, drawn) in zip(found, expected, strict=True)
    ):
        raise ResultError("the presentation state does not read back as it was drawn")


def _outlines(dataset: Dataset) -> Iterator[tuple[tuple[str, str], NDArray[np.float32]]]:
    """Each polyline with the instance and frame that it lies on."""
    for annotation in dataset.GraphicAnnotationSequence:
        (image,) = annotation.ReferencedImageSequence
        for item in annotation.get("GraphicObjectSequence") or []:
            raw = unparsed(item, _GRAPHIC_DATA)
            points = np.asarray(item.GraphicData, "<f4") if raw is None else np.frombuffer(raw.value or b"", "<f4")
            yield (str(image.ReferencedSOPInstanceUID), str(image.get("ReferencedFrameNumber"))), points
