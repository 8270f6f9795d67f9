"""The Image Library of the report (PS3.16 TID 1600): which images were judged, and what they have in common."""

from __future__ import annotations

from typing import Final

from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    NumContentItem,
    TextContentItem,
    UIDRefContentItem,
)
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from appliance.domain.codes import Code
from appliance.domain.image import Image, ImageVolume
from appliance.results.coded import concept
from appliance.results.references import reference, sequence
from appliance.results.sources import SourceImages
from appliance.results.text import plain

_CONTEXT: Final = "HAS ACQ CONTEXT"
_IMAGE_LIBRARY: Final = Code("111028", "DCM", "Image Library")
_IMAGE_LIBRARY_GROUP: Final = Code("126200", "DCM", "Image Library Group")
_MODALITY: Final = Code("121139", "DCM", "Modality")
_FRAME_OF_REFERENCE: Final = Code("112227", "DCM", "Frame of Reference UID")
_ROWS: Final = Code("110910", "DCM", "Pixel Data Rows")
_COLUMNS: Final = Code("110911", "DCM", "Pixel Data Columns")
_HORIZONTAL_SPACING: Final = Code("111026", "DCM", "Horizontal Pixel Spacing")
_VERTICAL_SPACING: Final = Code("111066", "DCM", "Vertical Pixel Spacing")
_SLICE_SPACING: Final = Code("112226", "DCM", "Spacing between slices")
_ROW_DIRECTION: Final = Code("111044", "DCM", "Patient Orientation Row")
_COLUMN_DIRECTION: Final = Code("111043", "DCM", "Patient Orientation Column")
_PIXELS: Final = Code("{pixels}", "UCUM", "Pixels")
_MILLIMETER: Final = Code("mm", "UCUM", "millimeter")
_MODALITIES: Final = {
    # PS3.16 CID 29
    "CR": Code("CR", "DCM", "Computed Radiography"),
    "CT": Code("CT", "DCM", "Computed Tomography"),
    "DX": Code("DX", "DCM", "Digital Radiography"),
    "MR": Code("MR", "DCM", "Magnetic Resonance"),
    "NM": Code("NM", "DCM", "Nuclear Medicine"),
    "PT": Code("PT", "DCM", "Positron emission tomography"),
    "US": Code("US", "DCM", "Ultrasound"),
    "XA": Code("XA", "DCM", "X-Ray Angiography"),
}


def image_library(image: Image, sources: SourceImages) -> ContainerContentItem:
    """The library of ``sources``: one group, since all are of one series, with its descriptors stated once.

    TID 1600 lets a group state what is the same in all its images, so each image is no more than its reference.
    """
    group = _container(_IMAGE_LIBRARY_GROUP)
    group[0x0040A730] = sequence(0x0040A730, [*_descriptors(image), *(_entry(*uids) for uids in sources.instances)])
    library = _container(_IMAGE_LIBRARY)
    library.ContentSequence = ContentSequence([group])
    return library


def _container(name: Code) -> ContainerContentItem:
    return ContainerContentItem(name=concept(name), relationship_type="CONTAINS")


def _entry(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """TID 1601: an IMAGE without a concept name."""
    item = Dataset()
    item[0x0040A010] = DataElement(0x0040A010, "CS", "CONTAINS", already_converted=True)
    item[0x0040A040] = DataElement(0x0040A040, "CS", "IMAGE", already_converted=True)
    item[0x00081199] = sequence(0x00081199, [reference(sop_class_uid, sop_instance_uid)])
    return item


def _descriptors(image: Image) -> list[ContentItem]:
    """TID 1602, with TID 1604 for slices or TID 1603 for radiographs."""
    items: list[ContentItem] = []
    if image.modality in _MODALITIES:
        modality = concept(_MODALITIES[image.modality])
        items.append(CodeContentItem(concept(_MODALITY), modality, relationship_type=_CONTEXT))
    if isinstance(image, ImageVolume):
        if image.frame_of_reference_uid is not None:
            uid = image.frame_of_reference_uid
            items.append(UIDRefContentItem(concept(_FRAME_OF_REFERENCE), uid, relationship_type=_CONTEXT))
        rows, columns = image.grid.shape[1:]
        slice_spacing, *pixel_spacing = image.grid.spacing_mm
        if image.grid.places is None:
            # A group may state only what all of its images have in common.
            items.append(_number(_SLICE_SPACING, slice_spacing, _MILLIMETER))
    else:
        rows, columns = image.pixels.shape
        pixel_spacing = list(image.pixel_spacing_mm or ())
        for name, direction in zip((_ROW_DIRECTION, _COLUMN_DIRECTION), image.patient_orientation or (), strict=False):
            items.append(TextContentItem(concept(name), plain(direction), relationship_type=_CONTEXT))
    items += [_number(_ROWS, rows, _PIXELS), _number(_COLUMNS, columns, _PIXELS)]
    if pixel_spacing:
        vertical, horizontal = pixel_spacing
        items.append(_number(_HORIZONTAL_SPACING, horizontal, _MILLIMETER))
        items.append(_number(_VERTICAL_SPACING, vertical, _MILLIMETER))
    return items


def _number(name: Code, value: float, unit: Code) -> NumContentItem:
    """Spacings to the nanometre: a grid is fitted in binary, its last digits say nothing."""
    rounded = round(value, 6)
    item = NumContentItem(concept(name), rounded, concept(unit), relationship_type=_CONTEXT)
    # highdicom writes 256.0 rows.
    item.MeasuredValueSequence[0].NumericValue = f"{rounded:g}" if isinstance(value, int) else str(rounded)
    return item
