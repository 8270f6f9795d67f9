"""The presentation state of a result: outlines and words over the source images, which stay as they are.

A Grayscale Softcopy Presentation State (PS3.3 section A.33.1) is about images that are shown through the same modality
transformation; images that differ in it, or in their size, get one each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

import numpy as np
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from appliance.domain.image import ImageVolume, SourceFrame
from appliance.domain.result import InferenceResult
from appliance.results.context import ResultContext
from appliance.results.contours import contours, is_closed
from appliance.results.identity import carry_request, write_header
from appliance.results.references import reference, sequence
from appliance.results.sources import PixelTransform, SourceImages
from appliance.results.text import AI_STATEMENT, plain

GRAYSCALE_SOFTCOPY_PRESENTATION_STATE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.11.1"

_CAPTION_LAYER: Final = "CAPTION"
_AMBER: Final = (255, 184, 28)
_TEXT_LENGTH: Final = 1024


@dataclass(frozen=True, slots=True, eq=False)
class _Plane:
    """One frame and what is drawn over it: for each segment (base 0) its mask, ``[row, column]``."""

    frame: SourceFrame
    masks: Mapping[int, NDArray[np.bool_]]


def write_presentations(result: InferenceResult, sources: SourceImages, context: ResultContext) -> list[Dataset]:
    """Write the outlines of ``result`` as presentation states of its source images.

    Returns
    -------
    list[Dataset]
        With file meta information, Explicit VR Little Endian; none for a result without a voxel in any segment.

    Raises
    ------
    ResultError
        The sources are not those of the image.
    """
    sources.check_against(result.image)
    groups: defaultdict[PixelTransform, list[_Plane]] = defaultdict(list)
    for plane in _planes(result):
        groups[sources.transform(plane.frame)].append(plane)
    labelled = _labelled(result)
    return [
        _presentation(result, sources, context, transform, planes, labelled, number)
        for number, (transform, planes) in enumerate(groups.items(), start=1)
    ]


def _planes(result: InferenceResult) -> list[_Plane]:
    """The frames that a segment touches."""
    image = result.image
    if not isinstance(image, ImageVolume):
        masks = {index: segment.mask for index, segment in enumerate(result.segments) if segment.mask.any()}
        return [_Plane(image.frame, masks)] if masks else []
    touched = [[bool(plane.any()) for plane in segment.mask] for segment in result.segments]
    planes = []
    for place, frame in enumerate(image.frames):
        masks = {index: result.segments[index].mask[place] for index, found in enumerate(touched) if found[place]}
        if masks:
            planes.append(_Plane(frame, masks))
    return planes


def _labelled(result: InferenceResult) -> dict[SourceFrame, list[int]]:
    """On which frame the name and the values of each segment stand: where most of it is."""
    image = result.image
    where: defaultdict[SourceFrame, list[int]] = defaultdict(list)
    for index, segment in enumerate(result.segments):
        if not isinstance(image, ImageVolume):
            where[image.frame].append(index)
        else:
            where[image.frames[int(np.argmax([np.count_nonzero(plane) for plane in segment.mask]))]].append(index)
    return where


def _presentation(
    result: InferenceResult,
    sources: SourceImages,
    context: ResultContext,
    transform: PixelTransform,
    planes: Sequence[_Plane],
    labelled: Mapping[SourceFrame, Sequence[int]],
    number: int,
) -> Dataset:
    state = Dataset()
    write_header(state, GRAYSCALE_SOFTCOPY_PRESENTATION_STATE_STORAGE, result, sources, context, "gsps", number)
    carry_request(state, sources)
    state.Laterality = None
    # Presentation State Identification (C.11.10)
    state.ContentLabel = "AI_RESULT"
    state.ContentDescription = plain(f"{AI_STATEMENT}: {result.title}", 64)
    state.ContentCreatorName = None
    state.PresentationCreationDate, state.PresentationCreationTime = state.ContentDate, state.ContentTime
    del state.ContentDate, state.ContentTime
    # Presentation State Relationship (C.11.11)
    series = Dataset()
    series.SeriesInstanceUID = sources.series_instance_uid
    series.ReferencedImageSequence = _references([plane.frame for plane in planes])
    state.ReferencedSeriesSequence = [series]
    # Displayed Area (C.10.4)
    state.DisplayedAreaSelectionSequence = [_displayed_area(result, sources, planes[0])]
    # Graphic Layer (C.10.7), Graphic Annotation (C.10.5)
    used = sorted({index for plane in planes for index in plane.masks})
    state.GraphicLayerSequence = _layers(result, used)
    values = _values(result)
    annotations = [
        item for plane in planes for item in _annotations(result, plane, labelled.get(plane.frame, ()), values)
    ]
    state[0x00700001] = sequence(0x00700001, annotations)
    # Modality LUT (C.11.1), Softcopy VOI LUT (C.11.8), Softcopy Presentation LUT (C.11.6)
    if transform.slope is not None:
        state.RescaleSlope, state.RescaleIntercept = _decimal(transform.slope), _decimal(transform.intercept)
        state.RescaleType = "HU" if result.image.modality == "CT" else "US"
    windows = _windows(result, sources, planes)
    if windows:
        state.SoftcopyVOILUTSequence = windows
    state.PresentationLUTShape = "INVERSE" if transform.inverse else "IDENTITY"
    return state


def _references(frames: Sequence[SourceFrame]) -> list[Dataset]:
    """One item for each instance, with the numbers of its frames where it has several (PS3.3 table 10-3)."""
    by_instance: dict[tuple[str, str], list[int]] = {}
    for frame in frames:
        numbers = by_instance.setdefault((frame.sop_class_uid, frame.sop_instance_uid), [])
        if frame.frame_number is not None:
            numbers.append(frame.frame_number)
    items = []
    for uids, numbers in by_instance.items():
        item = reference(*uids)
        if numbers:
            item.ReferencedFrameNumber = numbers
        items.append(item)
    return items


def _displayed_area(result: InferenceResult, sources: SourceImages, plane: _Plane) -> Dataset:
    image = result.image
    rows, columns = next(iter(plane.masks.values())).shape
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [columns, rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    if isinstance(image, ImageVolume):
        spacing = sources.plane(image, image.frames.index(plane.frame)).pixel_spacing_mm
        area.PresentationPixelSpacing = [_decimal(value) for value in spacing]
    elif image.pixel_spacing_mm is not None:
        area.PresentationPixelSpacing = [_decimal(value) for value in image.pixel_spacing_mm]
    else:
        area.PresentationPixelAspectRatio = [round(sources.pixel_aspect() * 1000), 1000]
    return area


def _layers(result: InferenceResult, used: Sequence[int]) -> list[Dataset]:
    layers = [(_layer(index), result.segments[index].color, result.segments[index].label) for index in used] + [
        (_CAPTION_LAYER, _AMBER, AI_STATEMENT)
    ]
    items = []
    for order, (name, color, words) in enumerate(layers, start=1):
        item = Dataset()
        item.GraphicLayer = name
        item.GraphicLayerOrder = order
        item.GraphicLayerRecommendedDisplayCIELabValue = list(CIELabColor.from_rgb(*color).value)
        item.GraphicLayerDescription = plain(words, 64)
        items.append(item)
    return items


def _layer(index: int) -> str:
    return f"SEGMENT_{index + 1}"


def _annotations(
    result: InferenceResult, plane: _Plane, labelled: Sequence[int], values: Mapping[int, str]
) -> list[Dataset]:
    """The Graphic Annotation items of one frame: one for each segment, and the caption."""
    items = []
    for index, mask in plane.masks.items():
        lines = contours(mask)
        item = _annotation(plane.frame, _layer(index))
        item[0x00700009] = sequence(0x00700009, [_polyline(points) for points in lines])
        if index in labelled:
            words = f"{result.segments[index].label}\r\n{values.get(index, '')}".strip()
            item.TextObjectSequence = [_label(words, lines)]
        items.append(item)
    caption = _annotation(plane.frame, _CAPTION_LAYER)
    words = f"{AI_STATEMENT}: {result.algorithm.name} {result.algorithm.version}"
    caption.TextObjectSequence = [_caption(words)]
    return [*items, caption]


def _annotation(frame: SourceFrame, layer: str) -> Dataset:
    item = Dataset()
    item.ReferencedImageSequence = _references([frame])
    item.GraphicLayer = layer
    return item


def _polyline(points: NDArray[np.float32]) -> Dataset:
    """A Graphic Object (PS3.3 section C.10.5.1.2)."""
    item = Dataset()
    # Made by the hundred: see ``references``.
    for tag, vr, value in (
        (0x00700005, "CS", "PIXEL"),
        (0x00700020, "US", 2),
        (0x00700021, "US", len(points)),
        (0x00700022, "FL", points.ravel().tolist()),
        (0x00700023, "CS", "POLYLINE"),
    ):
        item[tag] = DataElement(tag, vr, value, already_converted=True)
    if is_closed(points):
        item[0x00700024] = DataElement(0x00700024, "CS", "N", already_converted=True)
    return item


def _label(words: str, lines: Sequence[NDArray[np.float32]]) -> Dataset:
    """Words beside the outline, at its rightmost point."""
    points = np.concatenate(lines)
    item = Dataset()
    item.AnchorPointAnnotationUnits = "PIXEL"
    item.AnchorPoint = [float(value) for value in points[int(points[:, 0].argmax())]]
    item.AnchorPointVisibility = "N"
    item.UnformattedTextValue = _words(words)
    return item


def _caption(words: str) -> Dataset:
    """Words at the lower edge of the displayed area."""
    item = Dataset()
    item.BoundingBoxAnnotationUnits = "DISPLAY"
    item.BoundingBoxTopLeftHandCorner = [0.01, 0.95]
    item.BoundingBoxBottomRightHandCorner = [0.99, 0.99]
    item.BoundingBoxTextHorizontalJustification = "LEFT"
    item.UnformattedTextValue = _words(words)
    return item


def _words(text: str) -> str:
    return "\r\n".join(plain(line) for line in text.split("\r\n"))[:_TEXT_LENGTH]


def _values(result: InferenceResult) -> dict[int, str]:
    """What was measured of each segment (base 0), in words."""
    values: defaultdict[int, list[str]] = defaultdict(list)
    for finding in result.findings:
        if finding.segment is not None:
            values[finding.segment] += [f"{item.concept.meaning} {item.shown()}" for item in finding.measurements]
    return {index: "\r\n".join(words) for index, words in values.items()}


def _windows(result: InferenceResult, sources: SourceImages, planes: Sequence[_Plane]) -> list[Dataset]:
    """The items of the Softcopy VOI LUT Sequence: the frames are shown as their sources are.

    Without an item the whole range of what can be stored is shown, which leaves most images nearly black: slices that
    are sent without a window get one over their own values, as viewers give them.
    """
    tables = sources.first.get("VOILUTSequence")
    if tables and len(sources.datasets) == 1:
        item = Dataset()
        item.VOILUTSequence = [deepcopy(tables[0])]
        return [item]
    image = result.image
    own = None
    if isinstance(image, ImageVolume):
        least, most = float(image.voxels.min()), float(image.voxels.max())
        own = (least + most) / 2, max(most - least, 1.0)
    frames: defaultdict[tuple[float, float], list[SourceFrame]] = defaultdict(list)
    for plane in planes:
        window = sources.window(plane.frame) or own
        if window is not None:
            frames[window].append(plane.frame)
    items = []
    for (center, width), shown in frames.items():
        item = Dataset()
        if len(shown) < len(planes):
            item.ReferencedImageSequence = _references(shown)
        item.WindowCenter, item.WindowWidth = _decimal(center), _decimal(width)
        items.append(item)
    return items


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return f"{value:.9g}"
