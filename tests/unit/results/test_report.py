"""The report holds the numbers, codes and references of the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from appliance.domain.result import Measurement
from appliance.errors import ResultError
from appliance.results.objects import write_results
from appliance.results.readback import read_comments, read_report
from appliance.results.report import write_report
from appliance.results.segmentation import write_segmentation
from tests.unit.results.examples import LEFT, LUNG, MILLILITER, RIGHT, VOLUME, Example


def _items(dataset: Dataset, code_value: str) -> list[Dataset]:
    """All content items with that concept name, in the whole tree."""
    found = []
    for item in dataset.get("ContentSequence") or []:
        names = item.get("ConceptNameCodeSequence")
        if names and names[0].CodeValue == code_value:
            found.append(item)
        found += _items(item, code_value)
    return found


def test_flags_say_complete_unverified_preliminary(mr: Example) -> None:
    report = write_report(mr.result, mr.sources, mr.context, None)
    flags = (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag)
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert _items(report, "121005")[0].ConceptCodeSequence[0].CodeMeaning == "Device"


def test_measurements_read_back(dx: Example, tmp_path: Path) -> None:
    written = dcmread(write_results(dx.result, dx.sources, dx.context, tmp_path)[0].path)
    right, left, ratio = read_report(written)
    assert (right.tracking_id, right.finding, right.site, right.laterality) == ("right lung", LUNG, LUNG, RIGHT)
    assert left.laterality == LEFT
    assert right.value == dx.result.findings[0].measurements[0].value
    assert (ratio.tracking_id, ratio.finding, ratio.numeric_value) == ("overall", None, "1.00")
    assert len({right.tracking_uid, left.tracking_uid, ratio.tracking_uid}) == 3


def test_items_with_a_long_code_value_do_not_disturb_the_reader(mr: Example) -> None:
    report = write_report(mr.result, mr.sources, mr.context, None)
    expected = read_report(report)
    name = report.ContentSequence[0].ConceptNameCodeSequence[0]
    del name.CodeValue
    name.LongCodeValue = "a-code-of-more-than-16-characters"
    assert read_report(report) == expected


def test_tracking_uids_outlive_revisions_and_versions(mr: Example) -> None:
    later = replace(mr.context, model_key="example/2.0.0", revision=3)
    first = read_report(write_report(mr.result, mr.sources, mr.context, None))
    second = read_report(write_report(mr.result, mr.sources, later, None))
    assert first[0].tracking_uid == second[0].tracking_uid


def test_algorithm_identification(mr: Example) -> None:
    report = write_report(mr.result, mr.sources, mr.context, None)
    assert [item.TextValue for item in _items(report, "111001")] == ["Example network"]
    assert [item.TextValue for item in _items(report, "111003")] == ["1.2.0"]
    assert "backend=onnxruntime" in [item.TextValue for item in _items(report, "111002")]
    assert _items(report, "111000")[0].ConceptCodeSequence[0].CodeMeaning == "Artificial Intelligence"


def test_notes_and_intended_use_are_comments(mr: Example) -> None:
    notes = ("Slices ≤ 1 mm – good.", "µ and ² are written plainly.", " ", "A\nbreak\x00\x1b.")
    result = replace(mr.result, notes=notes)
    *comments, draft = read_comments(write_report(result, mr.sources, mr.context, None))
    assert "\r\n- A break  .\r\n" in draft
    assert comments == [
        "AI result, for research use, verify.",
        "Intended use: An example of a result. Not for clinical use.",
        "Slices <= 1 mm - good.",
        "u and 2 are written plainly.",
        "A break  .",
    ]


def test_library_and_evidence_name_each_image_once(mr: Example) -> None:
    segmentation = write_segmentation(mr.result, mr.sources, mr.context)
    report = write_report(mr.result, mr.sources, mr.context, segmentation)
    uids = [uid for _, uid in mr.sources.instances]
    group = _items(report, "126200")[0]
    images = [item for item in group.ContentSequence if item.ValueType == "IMAGE"]
    assert [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in images] == uids
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    source, result = evidence.ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in source.ReferencedSOPSequence] == uids
    assert result.SeriesInstanceUID == segmentation.SeriesInstanceUID


def test_volume_findings_refer_to_the_segment(mr: Example) -> None:
    segmentation = write_segmentation(mr.result, mr.sources, mr.context)
    report = write_report(mr.result, mr.sources, mr.context, segmentation)
    reference = _items(report, "121191")[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
    assert reference.ReferencedSegmentNumber == 1
    assert mr.sources.series_instance_uid == _items(report, "121232")[0].UID


def test_radiograph_findings_refer_to_their_frames(dx: Example) -> None:
    segmentation = write_segmentation(dx.result, dx.sources, dx.context)
    report = write_report(dx.result, dx.sources, dx.context, segmentation)
    references = [item.ReferencedSOPSequence[0] for item in _items(report, "121214")]
    assert [reference.ReferencedFrameNumber for reference in references] == [1, 2]
    assert not any("ReferencedSegmentNumber" in reference for reference in references)


def test_without_a_segmentation_findings_refer_to_the_images_of_the_mask(mr: Example) -> None:
    report = write_report(mr.result, mr.sources, mr.context, None)
    references = _items(report, "121112")
    occupied = mr.result.segments[0].mask.any(axis=(1, 2))
    expected = [uid for (_, uid), touched in zip(mr.sources.instances, occupied, strict=True) if touched]
    assert [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in references] == expected


def test_a_finding_without_an_outline_refers_to_all_images(mr: Example) -> None:
    result = replace(mr.result, findings=(replace(mr.result.findings[0], segment=None),), segments=())
    report = write_report(result, mr.sources, mr.context, None)
    assert len(_items(report, "121112")) == len(mr.sources.instances)


def test_a_result_without_findings_is_still_a_report(mr: Example, tmp_path: Path) -> None:
    result = replace(mr.result, findings=(), segments=())
    objects = write_results(result, mr.sources, mr.context, tmp_path)
    assert [item.kind for item in objects] == ["sr", "sc"]
    assert read_report(dcmread(objects[0].path)) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_reported(value: float, mr: Example) -> None:
    result = replace(mr.result, overall=(Measurement(VOLUME, value, MILLILITER),))
    with pytest.raises(ResultError, match="'Volume' is not a number"):
        write_report(result, mr.sources, mr.context, None)
