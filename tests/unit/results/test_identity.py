"""The patient's, the study's and the order's attributes arrive as they left; nothing else comes along."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from appliance.errors import ResultError
from appliance.results.capture import write_captures
from appliance.results.context import PriorReport, ResultContext
from appliance.results.objects import write_results
from appliance.results.report import write_report
from appliance.results.sources import SourceImages
from appliance.version import __version__
from tests.support.dicom_factory import chest_pixels, radiograph, write_datasets
from tests.unit.results.examples import CONTEXT, IMAGE_CONTEXT, Example, radiograph_example

_IDENTITY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)


def _written(source: Dataset, folder: Path) -> list[Dataset]:
    """The forms of a result of ``source``, as files and parsed."""
    example = radiograph_example(write_datasets([source], folder / "in")[0])
    (folder / "out").mkdir()
    objects = write_results(example.result, example.sources, example.context, folder / "out")
    return [dcmread(item.path) for item in objects]


def test_identity_is_carried_over_and_equipment_is_ours(dx: Example, tmp_path: Path) -> None:
    source = dx.sources.first
    for item in write_results(dx.result, dx.sources, dx.context, tmp_path):
        written = dcmread(item.path)
        assert [written.get(keyword) for keyword in _IDENTITY] == [source.get(keyword) for keyword in _IDENTITY]
        assert written.Manufacturer == "dicom-inference-appliance"
        assert written.DeviceSerialNumber == "SN-0001"
        assert list(written.SoftwareVersions) == [__version__, "example/1.2.0"]
        assert written.SeriesInstanceUID != source.SeriesInstanceUID
        assert written.SeriesDescription == f"Lung areas (AI) {item.kind.upper()}"
        assert (written.ContentDate, written.ContentTime) == ("20261102", "140305")
        for foreign in ("BodyPartExamined", "ViewPosition", "AcquisitionDate", "KVP", "StationName"):
            assert foreign not in written


@pytest.mark.parametrize(
    ("character_sets", "raw_name"),
    [
        ("ISO_IR 100", "Müller^Jürgen".encode("latin-1")),
        ("ISO_IR 192", "Иванова^Анна=日本".encode()),
        ("ISO_IR 144", "Люкceмбypг".encode("iso8859-5")),
        ("ISO_IR 127", "قباني^لنزار".encode("iso8859-6")),
        # PS3.5 annex H, example 1, and annex I
        (
            ["", "ISO 2022 IR 87"],
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        ),
        (
            ["", "ISO 2022 IR 149"],
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        ),
        # Bytes that are not of the character set that is named
        ("ISO_IR 192", b"\xe4\xf6\xfc^Broken"),
    ],
)
def test_names_stay_byte_for_byte(character_sets: str | list[str], raw_name: bytes, tmp_path: Path) -> None:
    source = radiograph(chest_pixels(40, 30))
    source.SpecificCharacterSet = character_sets
    path = write_datasets([source], tmp_path / "in")[0]
    # The factory's name is replaced in the file: no encoder of ours stands between.
    length = len(raw_name) + len(raw_name) % 2
    stored = b"\x10\x00\x10\x00PN" + length.to_bytes(2, "little") + raw_name.ljust(length)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x10\x00\x10\x00PN\x0c\x00Phantom^Test", stored))
    example = radiograph_example(path)
    (tmp_path / "out").mkdir()
    for item in write_results(example.result, example.sources, example.context, tmp_path / "out"):
        assert stored in item.path.read_bytes()
        assert dcmread(item.path).SpecificCharacterSet == character_sets


def test_odd_values_are_carried_and_never_raise(tmp_path: Path) -> None:
    path = write_datasets([radiograph(chest_pixels(40, 30), "CR")], tmp_path / "in")[0]
    content = path.read_bytes()
    swaps = {
        b"\x10\x00\x30\x00DA\x08\x0019600229": b"\x10\x00\x30\x00DA\x08\x001960-2-9",
        b"\x10\x00\x40\x00CS\x02\x00O ": b"\x10\x00\x40\x00CS\x02\x00?!",
        b"\x08\x00\x30\x00TM\x06\x00101500": b"\x08\x00\x30\x00TM\x06\x0099:99:",
        b"\x20\x00\x11\x00IS\x02\x001 ": b"\x20\x00\x11\x00IS\x02\x00x ",
    }
    for old, new in swaps.items():
        assert old in content
        content = content.replace(old, new)
    path.write_bytes(content)
    example = radiograph_example(path)
    (tmp_path / "out").mkdir()
    for item in write_results(example.result, example.sources, example.context, tmp_path / "out"):
        raw = item.path.read_bytes()
        assert all(new in raw for old, new in swaps.items() if b"IS" not in old)


def test_implicit_vr_and_unknown_vr_sources(tmp_path: Path) -> None:
    source = radiograph(chest_pixels(40, 30), "CR")
    source.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    implicit = _written(source, tmp_path)
    assert [str(dataset.PatientName) for dataset in implicit] == ["Phantom^Test"] * 3

    unknown = write_datasets([radiograph(chest_pixels(40, 30), "CR")], tmp_path / "unknown")[0]
    content = unknown.read_bytes()
    unknown.write_bytes(
        content.replace(b"\x10\x00\x20\x00LO\x0a\x00PHANTOM-1", b"\x10\x00\x20\x00UN\x00\x00\x0a\x00\x00\x00PHANTOM-1")
    )
    example = radiograph_example(unknown)
    for item in write_results(example.result, example.sources, example.context, tmp_path):
        assert b"\x10\x00\x20\x00LO\x0a\x00PHANTOM-1" in item.path.read_bytes()


def test_longest_uids(tmp_path: Path) -> None:
    source = radiograph(chest_pixels(40, 30), "CR")
    source.StudyInstanceUID = "1." * 31 + "12"
    source.SeriesInstanceUID = "2." * 31 + "12"
    source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = "1.2." + "9" * 60
    for dataset in _written(source, tmp_path):
        assert dataset.StudyInstanceUID == source.StudyInstanceUID
        assert len(dataset.SOPInstanceUID) <= 64


def test_order_reaches_the_report_and_the_series(tmp_path: Path) -> None:
    source = radiograph(chest_pixels(40, 30), "CR")
    request = Dataset()
    request.RequestedProcedureID = "RP-9"
    request.ScheduledProcedureStepID = "SPS-9"
    source.RequestAttributesSequence = [request]
    report, capture, segmentation = _written(source, tmp_path)
    assert report.ReferencedRequestSequence[0].RequestedProcedureID == "RP-9"
    assert report.ReferencedRequestSequence[0].AccessionNumber == "ACC-42"
    for dataset in (capture, segmentation):
        assert dataset.RequestAttributesSequence[0].ScheduledProcedureStepID == "SPS-9"


@pytest.mark.parametrize("transfer_syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("character_set", ["ISO_IR 192", ["", "ISO 2022 IR 87"]])
def test_order_stays_in_the_script_of_the_source(
    character_set: str | list[str], transfer_syntax: str, tmp_path: Path
) -> None:
    source, request, procedure = radiograph(chest_pixels(40, 30), "CR"), Dataset(), Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "X-7", "99SITE", "胸部"
    request.RequestedProcedureDescription = "胸部撮影"
    request.RequestedProcedureCodeSequence = [procedure]
    source.SpecificCharacterSet = character_set
    source.RequestAttributesSequence = [request]
    source.file_meta.TransferSyntaxUID = transfer_syntax
    report, capture, segmentation = _written(source, tmp_path)
    orders = report.ReferencedRequestSequence, capture.RequestAttributesSequence, segmentation.RequestAttributesSequence
    for (order,) in orders:
        assert order.RequestedProcedureDescription == "胸部撮影"
        assert order.RequestedProcedureCodeSequence[0].CodeMeaning == "胸部"


def test_empty_identifiers_of_a_request_are_left_out(tmp_path: Path) -> None:
    source, request = radiograph(chest_pixels(40, 30), "CR"), Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = "RP-9", ""
    source.RequestAttributesSequence = [request]
    for dataset in _written(source, tmp_path)[1:]:
        (item,) = dataset.RequestAttributesSequence
        assert "ScheduledProcedureStepID" not in item
        assert item.RequestedProcedureID == "RP-9"


@pytest.mark.parametrize("name", [b"ISO_IR 999", b"\xff" * 10])
def test_unknown_character_sets_are_carried_and_never_raise(name: bytes, tmp_path: Path) -> None:
    path = write_datasets([radiograph(chest_pixels(40, 30), "CR")], tmp_path / "in")[0]
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", name))
    example = radiograph_example(path)
    for item in write_results(example.result, example.sources, example.context, tmp_path):
        assert b"\x08\x00\x05\x00CS\x0a\x00" + name in item.path.read_bytes()


def test_long_titles_leave_room_for_the_form(dx: Example) -> None:
    result = replace(dx.result, title="A title that goes on " * 9)
    description = write_captures(result, dx.sources, dx.context)[0].SeriesDescription
    assert len(description) <= 64
    assert description.endswith(" SC")


def test_times_follow_the_zone_of_the_sources(dx: Example) -> None:
    moment = datetime(2026, 11, 2, 23, 30, tzinfo=UTC)
    context = ResultContext("example/1.2.0", 1, moment, "SN-0001")
    first = Dataset()
    first.update(dx.sources.first)
    first.TimezoneOffsetFromUTC = "+0100"
    capture = write_captures(dx.result, SourceImages([first]), context)[0]
    assert (capture.ContentDate, capture.ContentTime) == ("20261103", "003000")
    assert capture.TimezoneOffsetFromUTC == "+0100"


def test_procedure_of_the_study_is_reported(dx: Example) -> None:
    procedure = Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "X-7", "99SITE", "Chest PA"
    first = Dataset()
    first.update(dx.sources.first)
    first.ProcedureCodeSequence = [procedure]
    report = write_report(dx.result, SourceImages([first]), dx.context, None)
    reported = next(i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "121058")
    assert reported.ConceptCodeSequence[0].CodeMeaning == "Chest PA"


def test_replaced_reports_are_named(dx: Example) -> None:
    context = ResultContext(
        "example/1.2.0", 2, CONTEXT.created_at, "SN-0001", predecessors=(PriorReport("1.2.3", "1.2"),)
    )
    report = write_report(dx.result, dx.sources, context, None)
    series = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == "1.2"
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3"


def test_results_of_siblings_share_a_series(tmp_path: Path) -> None:
    first, second = radiograph(chest_pixels(40, 30)), radiograph(chest_pixels(40, 30))
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    second.InstanceNumber = "2"
    one, two = (_written(source, tmp_path / str(index))[0] for index, source in enumerate((first, second)))
    assert one.SeriesInstanceUID == two.SeriesInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert (one.InstanceNumber, two.InstanceNumber) == (1, 2)
    assert IMAGE_CONTEXT.scope == "instance"


def test_a_shadow_makes_objects_of_its_own(dx: Example, tmp_path: Path) -> None:
    """The version that serves may have to judge the same images for real, and no UID has two contents."""
    folders = tmp_path / "served", tmp_path / "shadow"
    for folder in folders:
        folder.mkdir()
    served = write_results(dx.result, dx.sources, dx.context, folders[0])
    shadow = write_results(dx.result, dx.sources, replace(dx.context, shadow=True), folders[1])
    for one, other in zip(served, shadow, strict=True):
        assert one.kind == other.kind
        assert one.sop_instance_uid != other.sop_instance_uid
        assert one.series_instance_uid != other.series_instance_uid


def test_sources_without_a_uid_are_refused() -> None:
    source = radiograph(chest_pixels(40, 30))
    del source.StudyInstanceUID
    with pytest.raises(ResultError, match="StudyInstanceUID"):
        SourceImages([source])
    with pytest.raises(ResultError, match="source images"):
        SourceImages([])
