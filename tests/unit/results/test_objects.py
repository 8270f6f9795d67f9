"""Files: identical when repeated, hashed, and refused when they do not read back as meant."""

from __future__ import annotations

import errno
import hashlib
import os
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from appliance.errors import ResultError
from appliance.results.capture import write_captures
from appliance.results.check import check_capture, check_report, check_segmentation, parsed
from appliance.results.objects import write_results
from appliance.results.report import write_report
from appliance.results.warm import warm_up
from tests.unit.results.examples import Example, radiograph_example, volume_example


def test_a_repeat_gives_the_same_bytes(mr_paths: list[Path], dx_path: Path, tmp_path: Path) -> None:
    contents = []
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
        for make in (lambda: volume_example(mr_paths), lambda: radiograph_example(dx_path)):
            example = make()
            objects = write_results(example.result, example.sources, example.context, tmp_path / attempt)
            contents.append([item.path.read_bytes() for item in objects])
    assert contents[:2] == contents[2:]


def test_revisions_and_models_have_their_own_uids(mr: Example, tmp_path: Path) -> None:
    contexts = [mr.context, replace(mr.context, revision=2), replace(mr.context, model_key="other/1.0.0")]
    objects = [item for context in contexts for item in write_results(mr.result, mr.sources, context, tmp_path)]
    assert len({item.sop_instance_uid for item in objects}) == len({item.series_instance_uid for item in objects}) == 9


def test_objects_describe_their_files(mr: Example, tmp_path: Path) -> None:
    objects = write_results(mr.result, mr.sources, mr.context, tmp_path)
    assert [item.path.name for item in objects] == ["sr-1.dcm", "sc-1.dcm", "seg-1.dcm"]
    for item in objects:
        content = item.path.read_bytes()
        dataset = dcmread(item.path)
        assert item.bytes == len(content)
        assert item.sha256 == hashlib.sha256(content).hexdigest()
        assert item.sop_instance_uid == dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID
        assert item.sop_class_uid == dataset.SOPClassUID
        assert item.series_instance_uid == dataset.SeriesInstanceUID
        assert item.transfer_syntax_uid == dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert [int(dcmread(item.path).SeriesNumber) for item in objects] == [101, 103, 102]


def test_only_the_forms_that_are_asked_for(mr: Example, tmp_path: Path) -> None:
    objects = write_results(mr.result, mr.sources, mr.context, tmp_path, forms=("sr",))
    assert [item.kind for item in objects] == ["sr"]
    assert [path.name for path in tmp_path.iterdir()] == ["sr-1.dcm"]


def test_sources_are_not_changed(mr: Example, tmp_path: Path) -> None:
    before = [dataset.to_json() for dataset in mr.sources.datasets]
    write_results(mr.result, mr.sources, mr.context, tmp_path)
    assert [dataset.to_json() for dataset in mr.sources.datasets] == before


def test_a_full_disk_is_no_fault_of_the_result(mr: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes it can tell by the error that it may be written later."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_results(mr.result, mr.sources, mr.context, tmp_path)
    assert caught.value.errno == errno.ENOSPC


def test_damaged_files_do_not_parse(mr: Example, tmp_path: Path) -> None:
    item = write_results(mr.result, mr.sources, mr.context, tmp_path, forms=("sr",))[0]
    with pytest.raises(ResultError, match="does not read back"):
        parsed(b"not DICOM", item.sop_class_uid, item.sop_instance_uid)
    with pytest.raises(ResultError, match="other UIDs"):
        parsed(item.path.read_bytes(), item.sop_class_uid, "1.2.3")


def _first_number(report: Dataset) -> Dataset:
    groups = next(i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    return next(i for i in groups.ContentSequence[0].ContentSequence if i.ValueType == "NUM")


def test_changed_numbers_are_caught(mr: Example) -> None:
    report = write_report(mr.result, mr.sources, mr.context, None)
    check_report(report, mr.result)
    measured = _first_number(report).MeasuredValueSequence[0]
    measured.NumericValue = str(float(measured.NumericValue) + 0.2)
    with pytest.raises(ResultError, match="does not repeat the measurement 'Volume'"):
        check_report(report, mr.result)
    _first_number(report).ValueType = "TEXT"
    with pytest.raises(ResultError, match="does not hold all measurements"):
        check_report(report, mr.result)


def test_changed_masks_are_caught(mr: Example, tmp_path: Path) -> None:
    path = write_results(mr.result, mr.sources, mr.context, tmp_path)[-1].path
    segment = mr.result.segments[0]

    voxel = segment.mask.copy()
    voxel[tuple(np.argwhere(voxel)[0])] = False
    with pytest.raises(ResultError, match="does not read back as it was written"):
        check_segmentation(dcmread(path), replace(mr.result, segments=(replace(segment, mask=voxel),)))

    more = segment.mask.copy()
    more[0, 0, 0] = True
    with pytest.raises(ResultError, match="lacks frames"):
        check_segmentation(dcmread(path), replace(mr.result, segments=(replace(segment, mask=more),)))

    moved = dcmread(path)
    moved.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [500, 0, 0]
    with pytest.raises(ResultError, match="does not lie on its slice"):
        check_segmentation(moved, mr.result)

    foreign = dcmread(path)
    source = foreign.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    source.ReferencedSOPInstanceUID = "1.2.3"
    with pytest.raises(ResultError, match="not judged"):
        check_segmentation(foreign, mr.result)


def test_changed_pictures_are_caught(mr: Example) -> None:
    capture = write_captures(mr.result, mr.sources, mr.context)[0]
    other = deepcopy(capture)
    other.PixelData = bytes(len(capture.PixelData))
    with pytest.raises(ResultError, match="capture"):
        check_capture(other, capture)


def test_errors_of_the_encoder_do_not_quote_the_patient(
    mr: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Phantom^Test")

    monkeypatch.setattr("appliance.results.encoding.write_file_meta_info", refuse)
    with pytest.raises(ResultError, match="cannot be encoded") as caught:
        write_results(mr.result, mr.sources, mr.context, tmp_path)
    assert "Phantom" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_warm_up_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    warm_up()
    assert not list(tmp_path.iterdir())
