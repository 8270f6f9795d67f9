"""Reading result objects back: the numbers of a report, the masks of a segmentation.

It reads what the Standard says, not what our writers happen to do, so it also serves on what a PACS sends back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from appliance.domain.codes import Code
from appliance.results.sources import text

_IMAGING_MEASUREMENTS = ("126010", "DCM")
_MEASUREMENT_GROUP = ("125007", "DCM")
_TRACKING_IDENTIFIER = ("112039", "DCM")
_TRACKING_UID = ("112040", "DCM")
_FINDING = ("121071", "DCM")
_FINDING_SITE = ("363698007", "SCT")
_LATERALITY = ("272741003", "SCT")
_COMMENT = ("121106", "DCM")


@dataclass(frozen=True, slots=True)
class ReportedMeasurement:
    """One number of a report, with the measurement group that it stands in.

    ``numeric_value`` is the value as it is written (Numeric Value, 0040,A30A), so that it can be shown with its
    honest number of decimals; ``value`` is the same as a number.
    """

    tracking_id: str
    tracking_uid: str
    finding: Code | None
    site: Code | None
    laterality: Code | None
    concept: Code
    numeric_value: str
    unit: Code

    @property
    def value(self) -> float:
        return float(self.numeric_value)


def read_report(dataset: Dataset) -> list[ReportedMeasurement]:
    """Read the measurements of a TID 1500 report, in the order in which they stand.

    Parameters
    ----------
    dataset
        A parsed SR document. One without imaging measurements gives an empty list.
    """
    measurements = []
    for container in _children(dataset, _IMAGING_MEASUREMENTS):
        for group in _children(container, _MEASUREMENT_GROUP):
            named = _by_name(group)
            site = named.get(_FINDING_SITE)
            laterality = _by_name(site).get(_LATERALITY) if site is not None else None
            for item in group.get("ContentSequence") or []:
                if item.get("ValueType") != "NUM" or not item.get("MeasuredValueSequence"):
                    continue
                measured = item.MeasuredValueSequence[0]
                measurements.append(
                    ReportedMeasurement(
                        tracking_id=_text(named.get(_TRACKING_IDENTIFIER), "TextValue"),
                        tracking_uid=_text(named.get(_TRACKING_UID), "UID"),
                        finding=_coded(named.get(_FINDING)),
                        site=_coded(site),
                        laterality=_coded(laterality),
                        concept=_code(item.ConceptNameCodeSequence[0]),
                        numeric_value=str(measured.NumericValue),
                        unit=_code(measured.MeasurementUnitsCodeSequence[0]),
                    )
                )
    return measurements


def read_comments(dataset: Dataset) -> list[str]:
    """The Comments (121106, DCM) of a report, wherever they stand: notes, intended use, the AI statement."""
    comments = []
    for item in dataset.get("ContentSequence") or []:
        if _name(item) == _COMMENT and item.get("ValueType") == "TEXT":
            comments.append(str(item.TextValue))
        comments += read_comments(item)
    return comments


@dataclass(frozen=True, slots=True, eq=False)
class SegmentFrame:
    """One frame of a binary segmentation.

    Attributes
    ----------
    segment_number
        Base 1.
    source
        SOP Instance UID and frame number (base 1; ``None`` for a single-frame source) of the image it lies on.
    position_mm
        Image Position (Patient), LPS, or ``None`` for a frame without a place in the patient.
    mask
        bool ``[row, column]``.
    """

    segment_number: int
    source: tuple[str, int | None]
    position_mm: tuple[float, float, float] | None
    mask: NDArray[np.bool_]


def read_segmentation(dataset: Dataset) -> Iterator[SegmentFrame]:
    """Decode a BINARY segmentation with native pixels, frame by frame (PS3.3 section C.8.20, PS3.5 section 8.1.1)."""
    rows, columns, count = int(dataset.Rows), int(dataset.Columns), int(dataset.NumberOfFrames)
    packed = np.frombuffer(dataset.PixelData, dtype=np.uint8)
    bits = np.unpackbits(packed, count=rows * columns * count, bitorder="little").view(np.bool_)
    masks = bits.reshape(count, rows, columns)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for groups, mask in zip(dataset.PerFrameFunctionalGroupsSequence, masks, strict=True):
        segment = (groups.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence)[0]
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        frame_number = source.get("ReferencedFrameNumber")
        position = groups.get("PlanePositionSequence")
        yield SegmentFrame(
            segment_number=int(segment.ReferencedSegmentNumber),
            source=(str(source.ReferencedSOPInstanceUID), None if frame_number is None else int(frame_number)),
            position_mm=tuple(map(float, position[0].ImagePositionPatient)) if position else None,  # type: ignore[arg-type]
            mask=mask,
        )


def _name(item: Dataset) -> tuple[str, str] | None:
    names = item.get("ConceptNameCodeSequence")
    # Of all items, so from their bytes: to parse them would take most of the time that a read-back takes.
    return (text(names[0], "CodeValue"), text(names[0], "CodingSchemeDesignator")) if names else None


def _children(item: Dataset, name: tuple[str, str]) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or []:
        if _name(child) == name:
            yield child


def _by_name(item: Dataset) -> dict[tuple[str, str] | None, Dataset]:
    """The children of ``item``; of several with one name the first."""
    return {_name(child): child for child in reversed(item.get("ContentSequence") or [])}


def _text(item: Dataset | None, keyword: str) -> str:
    return "" if item is None else str(item.get(keyword, ""))


def _code(item: Dataset) -> Code:
    return Code(str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning))


def _coded(item: Dataset | None) -> Code | None:
    return _code(item.ConceptCodeSequence[0]) if item is not None and item.get("ConceptCodeSequence") else None
