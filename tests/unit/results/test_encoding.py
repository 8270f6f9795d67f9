"""Our encoder writes the bytes that pydicom writes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RawDataStorage

from appliance.results.capture import write_captures
from appliance.results.encoding import encoded_file
from appliance.results.report import write_report
from appliance.results.segmentation import write_segmentation
from tests.unit.results.examples import Example


def _as_pydicom_writes(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _dataset() -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = RawDataStorage, "2.25.1"
    dataset.set_original_encoding(False, True, "iso8859")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = RawDataStorage, "2.25.1"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


@pytest.mark.parametrize("name", ["mr", "dx"])
def test_results_are_written_as_pydicom_writes_them(name: str, request: pytest.FixtureRequest) -> None:
    example: Example = request.getfixturevalue(name)
    arguments = example.result, example.sources, example.context
    segmentation = write_segmentation(*arguments)
    for dataset in (segmentation, write_report(*arguments, segmentation), *write_captures(*arguments)):
        assert encoded_file(dataset) == _as_pydicom_writes(dataset)


def _unparsed(transfer_syntax: str) -> Dataset:
    """A sequence as it comes out of a file, its items not parsed yet."""
    dataset, item = _dataset(), Dataset()
    item.RequestedProcedureID, item.PatientName, item.Rows = "P1", "A^B", 2
    dataset.RequestAttributesSequence = [item]
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dataset.set_original_encoding(None, None, "iso8859")
    read = dcmread(BytesIO(_as_pydicom_writes(dataset)))
    assert len(read.RequestAttributesSequence) == 1
    return read


@pytest.mark.parametrize(
    "change",
    [
        lambda item: setattr(item, "PatientName", "Müller^Jörg"),
        lambda item: setattr(item, "LongCodeValue", "odd"),
        lambda item: setattr(item, "TextValue", "x" * 70_001),
        lambda item: setattr(item, "CodeMeaning", "größer"),
        lambda item: setattr(item, "ImageType", ["DERIVED", "", "X"]),
        lambda item: setattr(item, "ImagePositionPatient", ["1.50", 2, -3.25]),
        lambda item: setattr(item, "InstanceNumber", "007"),
        lambda item: setattr(item, "SimpleFrameList", [1, 2, 4_000_000_000]),
        lambda item: setattr(item, "RationalNumeratorValue", -5),
        lambda item: setattr(item, "FloatingPointValue", 0.1),
        lambda item: item.add_new(0x00720074, "FD", [0.1, 1e300]),
        lambda item: setattr(item, "DimensionIndexPointer", 0x00209113),
        lambda item: setattr(item, "ContentDate", date(2026, 11, 2)),
        lambda item: setattr(item, "CodeValue", None),
        lambda item: setattr(item, "UID", ""),
        lambda item: setattr(item, "ContentSequence", []),
        lambda item: setattr(item, "Rows", None),
        lambda item: item.add_new(0x00090010, "LO", "SOMEBODY"),
        lambda item: item.add_new(0x00080000, "UL", 8),
        lambda item: item.add_new(0x00090000, "UL", 8),
        lambda item: item.add_new(0x00091001, "UN", b"\1\2"),
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_every_kind_of_value(change: Callable[[Dataset], None], depth: int) -> None:
    dataset = item = _dataset()
    for _ in range(depth):
        inner = Dataset()
        item.ContentSequence = [inner]
        item = inner
    item.ConceptNameCodeSequence = []
    change(item)
    assert encoded_file(dataset) == _as_pydicom_writes(dataset)


@pytest.mark.parametrize("transfer_syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_items_that_were_not_parsed(transfer_syntax: str) -> None:
    dataset = _dataset()
    dataset.RequestAttributesSequence = _unparsed(transfer_syntax).RequestAttributesSequence
    assert encoded_file(dataset) == _as_pydicom_writes(dataset)


def test_sequences_of_undefined_length_get_a_length() -> None:
    dataset, item = _dataset(), Dataset()
    item.CodeValue, item.CodeMeaning = "1", "größer"
    dataset.ConceptNameCodeSequence = [item]
    expected = _as_pydicom_writes(dataset)
    dataset["ConceptNameCodeSequence"].is_undefined_length = True
    item.is_undefined_length_sequence_item = True
    assert encoded_file(dataset) == expected


@pytest.mark.parametrize("transfer_syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("character_set", ["ISO_IR 192", ["", "ISO 2022 IR 87"]])
def test_text_of_items_put_together_from_parts(transfer_syntax: str, character_set: str | list[str]) -> None:
    """New items around old elements, as the report makes them of an order."""
    source, request = _dataset(), Dataset()
    source.SpecificCharacterSet = character_set
    request.RequestedProcedureDescription = "胸部"
    request.SmallestImagePixelValue = 258
    source.RequestAttributesSequence = [request]
    source.file_meta.TransferSyntaxUID = transfer_syntax
    source.set_original_encoding(None, None, "iso8859")
    read = dcmread(BytesIO(_as_pydicom_writes(source))).RequestAttributesSequence[0]

    written, item = _dataset(), Dataset()
    written.SpecificCharacterSet = character_set
    for tag, element in read.items():
        item[tag] = element
    item.RequestedProcedureCodeSequence = [read]
    written.ReferencedRequestSequence = [item]
    back = dcmread(BytesIO(encoded_file(written))).ReferencedRequestSequence[0]
    for found in (back, back.RequestedProcedureCodeSequence[0]):
        assert found.RequestedProcedureDescription == "胸部"
        assert found.SmallestImagePixelValue == 258


def test_a_value_that_cannot_be_written_is_refused() -> None:
    dataset = _dataset()
    dataset["Rows"] = DataElement("Rows", "US", 70_000, already_converted=True)
    with pytest.raises(OSError, match="for data_element"):
        encoded_file(dataset)


def test_file_meta_information_is_checked() -> None:
    dataset = _dataset()
    del dataset.file_meta.MediaStorageSOPInstanceUID
    with pytest.raises(AttributeError, match="File Meta Information"):
        encoded_file(dataset)
