"""The attributes that are read from every instance at receipt, and that match predicates may name.

A closed list: what is not here is not read before the model asks for the pixels, and is not kept in the journal.
None of them identifies a patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MATCH_ATTRIBUTES: Final[Mapping[str, int]] = {
    "ImageType": 0x00080008,
    "Modality": 0x00080060,
    "Manufacturer": 0x00080070,
    "StudyDescription": 0x00081030,
    "SeriesDescription": 0x0008103E,
    "ManufacturerModelName": 0x00081090,
    "ContrastBolusAgent": 0x00180010,
    "BodyPartExamined": 0x00180015,
    "ScanningSequence": 0x00180020,
    "SequenceVariant": 0x00180021,
    "MRAcquisitionType": 0x00180023,
    "SequenceName": 0x00180024,
    "SliceThickness": 0x00180050,
    "RepetitionTime": 0x00180080,
    "EchoTime": 0x00180081,
    "InversionTime": 0x00180082,
    "MagneticFieldStrength": 0x00180087,
    "ProtocolName": 0x00181030,
    "FlipAngle": 0x00181314,
    "ViewPosition": 0x00185101,
    "PatientOrientation": 0x00200020,
    "ImageLaterality": 0x00200062,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "BurnedInAnnotation": 0x00280301,
    "PresentationIntentType": 0x00080068,
}
"""Keyword → tag as ``0xGGGGEEEE`` (PS3.6)."""

AttributeValue = str | int | float | list[str]
"""A kept value: multi-valued text as a list, numbers as numbers; an absent or empty attribute is simply not there."""

Attributes = Mapping[str, AttributeValue]
