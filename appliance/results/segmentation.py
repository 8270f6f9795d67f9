"""The DICOM Segmentation of a result: its masks, bit for bit, on the slices they were drawn on (PS3.3 section A.51)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Final

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian

from appliance.domain.image import ImageVolume, ProjectionImage, SourceFrame
from appliance.domain.result import InferenceResult, Segment
from appliance.domain.uids import derived_uid
from appliance.errors import ResultError
from appliance.results.coded import concept
from appliance.results.context import ResultContext
from appliance.results.identity import (
    MANUFACTURER,
    MODEL_NAME,
    carry_lossy_compression,
    carry_request,
    instance_uid,
    series_uid,
    stand_in,
    tracking_uid,
    write_header,
)
from appliance.results.references import reference, sequence
from appliance.results.sources import SourceImages, text
from appliance.results.text import AI_STATEMENT, plain

SEGMENTATION_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.66.4"


def write_segmentation(result: InferenceResult, sources: SourceImages, context: ResultContext) -> Dataset:
    """Write the masks of ``result`` as one binary Segmentation.

    Segment numbers are the index into ``result.segments`` plus 1. Of a volume, frames without a voxel are left out
    (when all are, one empty frame stands for the rest). A radiograph has one frame for each segment, frame number =
    segment number, and no place in the patient: its image has no Frame of Reference, so the frames are tied to it,
    pixel for pixel, by the Derivation Image functional group alone. PS3.3 table A.51-1 and table A.51.5-1 require the
    Frame of Reference module and the plane groups only where that group is absent.

    Returns
    -------
    Dataset
        With file meta information, Explicit VR Little Endian.

    Raises
    ------
    ResultError
        There is nothing to write, the sources are not those of the image, or their attributes do not allow it.
    """
    if not result.segments:
        raise ResultError("a segmentation needs a segment", found="none", mend="Leave the SEG out of the results")
    sources.check_against(result.image)
    if isinstance(result.image, ImageVolume):
        occupied = occupied_slices(result.segments)
        slices = occupied or [result.image.grid.shape[0] // 2]
        masks = [segment.mask[slices[0] : slices[-1] + 1] for segment in result.segments]
        masks = [mask[np.asarray(slices) - slices[0]] for mask in masks] if _has_gaps(slices) else masks
        source = _volume_source(result.image, sources, slices)
    else:
        occupied = []
        masks = [segment.mask[np.newaxis] for segment in result.segments]
        source = _pixel_source(sources, result.image.pixels.shape)

    try:
        segmentation = Segmentation(
            source_images=[source],
            pixel_array=_label_map(masks),
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=_descriptions(result, sources, context),
            series_instance_uid=series_uid(sources, context, "seg"),
            series_number=1,
            sop_instance_uid=instance_uid(sources, context, "seg"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL_NAME,
            software_versions="1",
            device_serial_number="1",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            content_label="SEGMENTATION",
            content_description=plain(f"{AI_STATEMENT}: {result.title}", 64),
            omit_empty_frames=bool(occupied),
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # highdicom refuses with these; its words may quote attributes of the source, so only the kind is kept.
        raise ResultError(
            "the segmentation cannot be written for these source images", found=type(error).__name__
        ) from None

    if isinstance(result.image, ImageVolume):
        _give_own_thickness(segmentation, [sources.slice_thickness_mm(result.image, index) for index in slices])
        _refer_to_sources(segmentation, sources, [result.image.frames[index] for index in slices])
    _use_derived_dimension_uid(segmentation, sources, context)
    segmentation["PixelData"].VR = "OB"
    write_header(segmentation, SEGMENTATION_STORAGE, result, sources, context, "seg")
    carry_request(segmentation, sources)
    if isinstance(result.image, ProjectionImage):
        # General Image (C.7.6.1) wants it, empty when unknown, where no plane says how the image lies.
        segmentation.PatientOrientation = [plain(axis) for axis in result.image.patient_orientation or ()] or None
    carry_lossy_compression(segmentation, sources)
    return segmentation


def occupied_slices(segments: Sequence[Segment]) -> list[int]:
    """Indices (base 0) of the slices of a volume that any of ``segments`` touches, in order."""
    touched = np.zeros(segments[0].mask.shape[0], dtype=np.bool_)
    for segment in segments:
        touched |= segment.mask.reshape(touched.size, -1).any(axis=1)
    return [int(index) for index in np.flatnonzero(touched)]


def _has_gaps(slices: Sequence[int]) -> bool:
    return slices[-1] - slices[0] + 1 != len(slices)


def _label_map(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """The masks as highdicom takes them quickest.

    ``[slice, row, column]`` of segment numbers while they do not overlap, else ``[slice, row, column, segment]``.
    """
    if len(masks) == 1:
        return masks[0].view(np.uint8)
    dtype = np.uint8 if len(masks) < 256 else np.uint16
    labels = np.zeros(masks[0].shape, dtype)
    for number, mask in enumerate(masks, start=1):
        labels = np.maximum(labels, np.multiply(mask, number, dtype=dtype))
    if np.count_nonzero(labels) < sum(np.count_nonzero(mask) for mask in masks):
        # Segments last for highdicom, first in memory: it takes them out one by one.
        return np.moveaxis(np.stack([mask.view(np.uint8) for mask in masks]), 0, -1)
    return labels


def _descriptions(result: InferenceResult, sources: SourceImages, context: ResultContext) -> list[SegmentDescription]:
    algorithm = AlgorithmIdentificationSequence(
        name=plain(result.algorithm.name, 64),
        family=concept(result.algorithm.family),
        version=plain(result.algorithm.version, 64),
        source=plain(result.algorithm.manufacturer, 64),
        parameters={plain(name): plain(value) for name, value in result.algorithm.parameters} or None,
    )
    tracking = {finding.segment: finding.tracking_id for finding in result.findings}
    descriptions = []
    for index, segment in enumerate(result.segments):
        tracking_id = tracking.get(index)
        description = SegmentDescription(
            segment_number=index + 1,
            segment_label=plain(segment.label, 64),
            segmented_property_category=concept(segment.category),
            segmented_property_type=concept(segment.structure),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            tracking_id=plain(tracking_id, 64) if tracking_id is not None else None,
            tracking_uid=tracking_uid(sources, context, tracking_id) if tracking_id is not None else None,
            display_color=CIELabColor.from_rgb(*segment.color),
        )
        _add_laterality(description, segment)
        if segment.description:
            description.SegmentDescription = plain(segment.description, 1024)
        descriptions.append(description)
    return descriptions


def _add_laterality(description: SegmentDescription, segment: Segment) -> None:
    if segment.laterality is not None:
        structure = description.SegmentedPropertyTypeCodeSequence[0]
        structure.SegmentedPropertyTypeModifierCodeSequence = [concept(segment.laterality)]


def _volume_source(image: ImageVolume, sources: SourceImages, slices: Sequence[int]) -> Dataset:
    """A stand-in for the source of ``slices``: one enhanced image that has just these frames.

    Also for classic series: highdicom looks each of their instances up in its tables of the Standard, which takes
    longer than to write the segmentation. ``_refer_to_sources`` names the true ones.
    """
    item = _pixel_source(sources, image.grid.shape[1:])
    item.SOPClassUID = EnhancedMRImageStorage
    item.FrameOfReferenceUID = sources.frame_of_reference_uid(image)
    item.PositionReferenceIndicator = None
    item.NumberOfFrames = len(slices)
    # One orientation and one spacing for all frames: imaging has checked that they agree, and scanners differ only
    # in the last digit.
    plane = sources.plane(image, 0)
    orientation, measures, groups = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = _decimals(plane.orientation)
    measures.PixelSpacing = _decimals(plane.pixel_spacing_mm)
    measures.SliceThickness = _decimals([sources.slice_thickness_mm(image, slices[0])])[0]
    groups.PlaneOrientationSequence = [orientation]
    groups.PixelMeasuresSequence = [measures]
    item.SharedFunctionalGroupsSequence = [groups]
    frames = []
    for index in slices:
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = _decimals(sources.plane(image, index).position_mm)
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    item.PerFrameFunctionalGroupsSequence = frames
    return item


def _pixel_source(sources: SourceImages, shape: tuple[int, ...]) -> Dataset:
    item = stand_in(sources, sources.first)
    item.Modality = text(sources.first, "Modality")
    item.Rows, item.Columns = shape
    return item


def _give_own_thickness(segmentation: Dataset, thicknesses_mm: Sequence[float]) -> None:
    """Where slices are not equally thick, move the Pixel Measures from the shared groups into those of each frame.

    Before ``_refer_to_sources``: the frames still have the numbers of the stand-in's.
    """
    if len(set(thicknesses_mm)) < 2:
        return
    (shared,) = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    del segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        measures = deepcopy(shared)
        measures.SliceThickness = _decimals([thicknesses_mm[int(source.ReferencedFrameNumber) - 1]])[0]
        groups.PixelMeasuresSequence = [measures]


def _refer_to_sources(segmentation: Dataset, sources: SourceImages, frames: Sequence[SourceFrame]) -> None:
    """Name the true sources of the frames; highdicom counted those of the stand-in.

    Frames of several segments on one slice share one item, which must be changed once.
    """
    items = [
        groups.DerivationImageSequence[0].SourceImageSequence[0]
        for groups in segmentation.PerFrameFunctionalGroupsSequence
    ]
    for item in {id(item): item for item in items}.values():
        frame = frames[int(item.ReferencedFrameNumber) - 1]
        item.update(reference(frame.sop_class_uid, frame.sop_instance_uid))
        if frame.frame_number is None:
            del item.ReferencedFrameNumber
        else:
            item.ReferencedFrameNumber = frame.frame_number
    instances = [reference(*uids) for uids in dict.fromkeys((f.sop_class_uid, f.sop_instance_uid) for f in frames)]
    segmentation[0x00082112] = sequence(0x00082112, instances)
    segmentation.ReferencedSeriesSequence[0][0x0008114A] = sequence(0x0008114A, instances)


def _use_derived_dimension_uid(segmentation: Dataset, sources: SourceImages, context: ResultContext) -> None:
    """Replace the random UID of the dimensions, so that a repeat gives the same object."""
    uid = derived_uid(instance_uid(sources, context, "seg"), "dimension organization")
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _decimals(values: Sequence[float]) -> list[str]:
    """Decimal strings of at most 16 characters that read back as close to ``values`` as that allows."""
    strings = []
    for value in values:
        digits = 16
        while len(decimal := f"{value:.{digits}g}") > 16:
            digits -= 1
        strings.append(decimal)
    return strings
