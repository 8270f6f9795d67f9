"""Presentation states: outlines where the masks are, on images that are shown as they came."""

from __future__ import annotations

import shutil
import subprocess
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from appliance.domain.image import ImageVolume
from appliance.errors import ResultError
from appliance.results.check import check_presentation
from appliance.results.contours import contours
from appliance.results.objects import write_results
from appliance.results.presentation import write_presentations
from appliance.results.sources import SourceImages
from tests.support.dicom_factory import (
    chest_pixels,
    ct_series,
    ct_voxels,
    enhanced_ct,
    mr_series,
    mr_voxels,
    radiograph,
    write_datasets,
)
from tests.unit.results.examples import Example, radiograph_example, volume_example


def _written(example: Example, folder: Path) -> list[Dataset]:
    folder.mkdir()
    objects = write_results(example.result, example.sources, example.context, folder, ("gsps",))
    return [dcmread(item.path) for item in objects]


def test_every_outlined_slice_has_its_outline_and_the_caption(mr: Example, tmp_path: Path) -> None:
    (state,) = _written(mr, tmp_path / "out")
    (segment,) = mr.result.segments
    occupied = [index for index, plane in enumerate(segment.mask) if plane.any()]
    uids = [mr.result.image.frames[index].sop_instance_uid for index in occupied]
    (series,) = state.ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedImageSequence] == uids
    for layer in ("SEGMENT_1", "CAPTION"):
        items = [item for item in state.GraphicAnnotationSequence if item.GraphicLayer == layer]
        assert [item.ReferencedImageSequence[0].ReferencedSOPInstanceUID for item in items] == uids
        if layer == "CAPTION":
            words = {item.TextObjectSequence[0].UnformattedTextValue for item in items}
            assert words == {"AI result, for research use, verify: Example network 1.2.0"}
            continue
        for item, index in zip(items, occupied, strict=True):
            drawn = [np.reshape(line.GraphicData, (-1, 2)) for line in item.GraphicObjectSequence]
            for found, expected in zip(drawn, contours(segment.mask[index]), strict=True):
                assert np.array_equal(found, expected)


def test_name_and_values_stand_once_where_most_of_it_is(mr: Example, tmp_path: Path) -> None:
    (state,) = _written(mr, tmp_path / "out")
    labels = [
        (item.ReferencedImageSequence[0].ReferencedSOPInstanceUID, item.TextObjectSequence[0].UnformattedTextValue)
        for item in state.GraphicAnnotationSequence
        if item.GraphicLayer == "SEGMENT_1" and "TextObjectSequence" in item
    ]
    (segment,), (finding,) = mr.result.segments, mr.result.findings
    most = int(segment.mask.sum(axis=(1, 2)).argmax())
    uid = mr.result.image.frames[most].sop_instance_uid
    assert labels == [(uid, f"Brain\r\nVolume {finding.measurements[0].shown()}")]


def test_images_are_shown_as_they_came(tmp_path: Path) -> None:
    """Modality transformation and window of the source; a window for each image where they differ."""
    datasets = ct_series(ct_voxels(4, 24, 24))
    for number, dataset in enumerate(datasets):
        dataset.WindowCenter, dataset.WindowWidth = 40 + 10 * (number // 2), 80
    example = volume_example(write_datasets(datasets, tmp_path / "in"), np.ones((4, 24, 24), dtype=np.bool_))
    (state,) = _written(example, tmp_path / "out")
    source = example.sources.first
    assert (float(state.RescaleSlope), float(state.RescaleIntercept)) == (
        float(source.RescaleSlope),
        float(source.RescaleIntercept),
    )
    assert (state.RescaleType, state.PresentationLUTShape) == ("HU", "IDENTITY")
    windows = {float(item.WindowCenter): len(item.ReferencedImageSequence) for item in state.SoftcopyVOILUTSequence}
    assert windows == {40: 2, 50: 2}


def test_slices_without_a_window_are_shown_over_their_own_values(tmp_path: Path) -> None:
    datasets = ct_series(ct_voxels(4, 24, 24))
    for dataset in datasets:
        del dataset.WindowCenter, dataset.WindowWidth
    example = volume_example(write_datasets(datasets, tmp_path / "in"), np.ones((4, 24, 24), dtype=np.bool_))
    (state,) = _written(example, tmp_path / "out")
    (window,) = state.SoftcopyVOILUTSequence
    assert isinstance(example.result.image, ImageVolume)
    least, most = example.result.image.voxels.min(), example.result.image.voxels.max()
    assert (float(window.WindowCenter), float(window.WindowWidth)) == ((least + most) / 2, most - least)


def test_images_of_different_transformations_get_a_state_each(tmp_path: Path) -> None:
    datasets = mr_series(mr_voxels(4, 24, 24))
    for number, dataset in enumerate(datasets):
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + number // 2, 0
    example = volume_example(write_datasets(datasets, tmp_path / "in"), np.ones((4, 24, 24), dtype=np.bool_))
    states = _written(example, tmp_path / "out")
    assert [float(state.RescaleSlope) for state in states] == [1, 2]
    assert len({state.SOPInstanceUID for state in states}) == 2
    assert len({state.SeriesInstanceUID for state in states}) == 1
    assert [len(state.ReferencedSeriesSequence[0].ReferencedImageSequence) for state in states] == [2, 2]


def test_frames_of_one_image_are_named_by_their_number(tmp_path: Path) -> None:
    example = volume_example(write_datasets([enhanced_ct(ct_voxels(5, 40, 40))], tmp_path / "in"))
    (state,) = _written(example, tmp_path / "out")
    (image,) = state.ReferencedSeriesSequence[0].ReferencedImageSequence
    numbers = [int(item.ReferencedImageSequence[0].ReferencedFrameNumber) for item in state.GraphicAnnotationSequence]
    assert set(image.ReferencedFrameNumber) == set(numbers) and len(set(numbers)) > 1


def test_inverted_radiograph_without_spacing(tmp_path: Path) -> None:
    source = radiograph(chest_pixels(90, 70), "CR", None, None, "MONOCHROME1")
    example = radiograph_example(write_datasets([source], tmp_path / "in")[0])
    (state,) = _written(example, tmp_path / "out")
    assert state.PresentationLUTShape == "INVERSE"
    (area,) = state.DisplayedAreaSelectionSequence
    assert list(area.DisplayedAreaBottomRightHandCorner) == [70, 90]
    assert list(area.PresentationPixelAspectRatio) == [1000, 1000]
    assert [item.GraphicLayer for item in state.GraphicLayerSequence] == ["SEGMENT_1", "SEGMENT_2", "CAPTION"]


def test_without_a_voxel_there_is_nothing_to_present(mr: Example, tmp_path: Path) -> None:
    assert _written(replace(mr, result=replace(mr.result, segments=(), findings=())), tmp_path / "none") == []
    (segment,) = mr.result.segments
    empty = replace(segment, mask=np.zeros_like(segment.mask))
    assert _written(replace(mr, result=replace(mr.result, segments=(empty,))), tmp_path / "empty") == []


def test_other_sources_are_refused(mr: Example, dx: Example) -> None:
    with pytest.raises(ResultError, match="are not the frames of the image"):
        write_presentations(mr.result, SourceImages(dx.sources.datasets), mr.context)


def test_a_point_that_moved_does_not_read_back(mr: Example) -> None:
    (meant,) = write_presentations(mr.result, mr.sources, mr.context)
    check_presentation(meant, meant)
    moved = deepcopy(meant)
    moved.GraphicAnnotationSequence[0].GraphicObjectSequence[0].GraphicData[3] += 0.5
    with pytest.raises(ResultError, match="does not read back as it was drawn"):
        check_presentation(moved, meant)
    del moved.GraphicAnnotationSequence[0]
    with pytest.raises(ResultError, match="does not read back as it was drawn"):
        check_presentation(moved, meant)


@pytest.mark.peer
@pytest.mark.skipif(shutil.which("dcmpschk") is None, reason="no dcmpschk: apt install dcmtk")
@pytest.mark.parametrize("kind", ["mr", "dx"])
def test_dcmtk_takes_it(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    example: Example = request.getfixturevalue(kind)
    (item,) = write_results(example.result, example.sources, example.context, tmp_path, ("gsps",))
    done = subprocess.run(["dcmpschk", item.path], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Test passed" in done.stderr + done.stdout, done.stderr
