"""Key objects: the image that shows most of each finding, once."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from appliance.errors import ResultError
from appliance.results.check import check_key_objects
from appliance.results.key_objects import key_frames, write_key_objects
from appliance.results.objects import write_results
from tests.support.dicom_factory import ct_voxels, enhanced_ct, write_datasets
from tests.unit.results.examples import Example, volume_example
from tests.unit.results.validity import needs_dsr2html, rendered


def test_the_slice_with_most_of_each_finding(mr: Example) -> None:
    (finding,), (segment,) = mr.result.findings, mr.result.segments
    masks = [np.zeros_like(segment.mask) for _ in range(3)]
    masks[0][2, :5, :5] = masks[0][3, :2, :2] = True
    masks[1][1, 0, 0] = True
    masks[2][2, 7, 7] = True
    result = replace(
        mr.result,
        segments=tuple(replace(segment, mask=mask) for mask in masks),
        findings=tuple(replace(finding, segment=index) for index in range(3)),
    )
    frames = mr.result.image.frames
    assert list(key_frames(result)) == [frames[2], frames[1]]
    (document,) = write_key_objects(result, mr.sources, mr.context)
    images = [item.ReferencedSOPSequence[0] for item in document.ContentSequence if item.ValueType == "IMAGE"]
    assert [item.ReferencedSOPInstanceUID for item in images] == [
        frames[2].sop_instance_uid,
        frames[1].sop_instance_uid,
    ]
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert len(series.ReferencedSOPSequence) == 2


def test_without_an_outline_no_image_matters_more(mr: Example, tmp_path: Path) -> None:
    result = replace(mr.result, findings=(replace(mr.result.findings[0], segment=None),))
    assert write_results(result, mr.sources, mr.context, tmp_path, ("ko",)) == []


def test_a_frame_is_named_by_its_number(tmp_path: Path) -> None:
    example = volume_example(write_datasets([enhanced_ct(ct_voxels(5, 40, 40))], tmp_path / "in"))
    (item,) = write_results(example.result, example.sources, example.context, tmp_path, ("ko",))
    image = dcmread(item.path).ContentSequence[-1]
    (frame,) = key_frames(example.result)
    assert image.ReferencedSOPSequence[0].ReferencedFrameNumber == frame.frame_number


def test_another_image_does_not_read_back(mr: Example) -> None:
    (meant,) = write_key_objects(mr.result, mr.sources, mr.context)
    other = deepcopy(meant)
    other.ContentSequence[-1].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    with pytest.raises(ResultError, match="does not read back"):
        check_key_objects(other, meant)


@pytest.mark.parametrize("kind", ["mr", "dx"])
@needs_dsr2html
def test_dcmtk_renders_it(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    example: Example = request.getfixturevalue(kind)
    (item,) = write_results(example.result, example.sources, example.context, tmp_path, ("ko",))
    html = rendered(item.path)
    for words in ("Of Interest", "AI result, for research use, verify", example.result.title):
        assert words in html
