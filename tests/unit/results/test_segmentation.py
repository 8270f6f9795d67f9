"""Masks arrive bit for bit, on the slices they were drawn on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from appliance.domain.image import ImageVolume
from appliance.domain.result import InferenceResult
from appliance.errors import ResultError
from appliance.results.objects import write_results
from appliance.results.segmentation import write_segmentation
from appliance.results.sources import SourceImages
from tests.support.dicom_factory import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Stack,
    ct_series,
    ct_voxels,
    enhanced_ct,
    mr_series,
    mr_voxels,
    write_datasets,
)
from tests.unit.results.examples import Example, volume_example


def _written(example: Example, folder: Path) -> Dataset:
    folder.mkdir(exist_ok=True)
    return dcmread(write_results(example.result, example.sources, example.context, folder)[-1].path)


def _with_masks(example: Example, *masks: np.ndarray) -> Example:
    segment = example.result.segments[0]
    segments = tuple(replace(segment, label=f"Part {n}", mask=mask) for n, mask in enumerate(masks))
    return replace(example, result=replace(example.result, segments=segments))


_OBLIQUE = (0.8, 0.6, 0.0), (-0.48, 0.64, -0.6)


@pytest.mark.parametrize(
    "stack",
    [
        Stack(*AXIAL, spacing_mm=(2.0, 0.7, 0.7)),
        Stack(*SAGITTAL, spacing_mm=(1.5, 0.9, 0.8)),
        Stack(*CORONAL, spacing_mm=(1.0, 1.0, 0.5)),
        Stack(*_OBLIQUE, spacing_mm=(2.5, 0.6, 1.1)),
        Stack(*AXIAL, spacing_mm=(5.0, 0.5, 0.5), step_mm=(0.0, 1.3, 5.0)),
        Stack(*AXIAL, spacing_mm=(2.0, 0.7, 0.7), step_mm=(0.0, 0.0, -2.0)),
        Stack(*AXIAL, spacing_mm=(5.0, 0.5, 0.5), step_mm=(0.0, 1.3, 5.0), places=(0, 1, 2, 2.3, 4, 5.5, 7, 8.5)),
    ],
    ids=["axial", "sagittal", "coronal", "oblique", "tilted", "downwards", "variable"],
)
def test_other_readers_find_voxels_where_they_are(stack: Stack, tmp_path: Path) -> None:
    """The centre of mass of the mask, as highdicom places the frames, is that of the result's own grid."""
    mask = np.zeros((8, 24, 20), dtype=np.bool_)
    mask[2:5, 3:9, 10:17] = True
    example = volume_example(write_datasets(mr_series(mr_voxels(*mask.shape), stack), tmp_path / "in"), mask)
    written = highdicom.seg.Segmentation.from_dataset(_written(example, tmp_path / "out"))
    shared = written.SharedFunctionalGroupsSequence[0]
    spacing = [float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing]
    orientation = [float(value) for value in shared.PlaneOrientationSequence[0].ImageOrientationPatient]
    points = []
    for groups, frame in zip(written.PerFrameFunctionalGroupsSequence, written.pixel_array, strict=True):
        transformer = highdicom.spatial.ImageToReferenceTransformer(
            groups.PlanePositionSequence[0].ImagePositionPatient, orientation, spacing
        )
        rows, columns = np.nonzero(frame)
        points.append(transformer(np.stack([columns + 0.5, rows + 0.5], axis=1)))
    image = example.result.image
    assert isinstance(image, ImageVolume)
    expected = image.grid.to_patient(np.argwhere(mask).astype(np.float64))
    np.testing.assert_allclose(np.concatenate(points).mean(axis=0), expected.mean(axis=0), atol=1e-3)
    assert sum(len(part) for part in points) == len(expected)


def test_frames_are_as_thick_as_their_slices(tmp_path: Path) -> None:
    stack = Stack(*AXIAL, places=(0, 4, 8, 9, 16, 23))
    datasets = ct_series(ct_voxels(6, 24, 24), stack)
    for dataset, thickness in zip(datasets, ("4", "4", "4", "7", "7", "7"), strict=True):
        dataset.SliceThickness = thickness
    mask = np.zeros((6, 24, 24), dtype=np.bool_)
    mask[2:5, 4:9, 4:9] = True
    example = volume_example(write_datasets(datasets, tmp_path / "in"), mask)
    written = _written(example, tmp_path / "out")
    assert "PixelMeasuresSequence" not in written.SharedFunctionalGroupsSequence[0]
    measures = {
        float(groups.PlanePositionSequence[0].ImagePositionPatient[2]): groups.PixelMeasuresSequence[0]
        for groups in written.PerFrameFunctionalGroupsSequence
    }
    assert {height - 30: float(item.SliceThickness) for height, item in measures.items()} == {8: 4, 9: 7, 16: 7}
    assert all(item.PixelSpacing == [1, 1] for item in measures.values())
    assert not any("SpacingBetweenSlices" in item for item in measures.values())


def test_frames_name_their_source_images(mr: Example, tmp_path: Path) -> None:
    written = _written(mr, tmp_path)
    occupied = np.flatnonzero(mr.result.segments[0].mask.any(axis=(1, 2)))
    sources = [
        groups.DerivationImageSequence[0].SourceImageSequence[0] for groups in written.PerFrameFunctionalGroupsSequence
    ]
    assert {item.ReferencedSOPInstanceUID for item in sources} == {mr.sources.instances[i][1] for i in occupied}
    assert not any("ReferencedFrameNumber" in item for item in sources)
    assert written.FrameOfReferenceUID == mr.sources.first.FrameOfReferenceUID
    (series,) = written.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == mr.sources.series_instance_uid
    assert len(series.ReferencedInstanceSequence) == len(occupied)


def test_frames_of_a_multi_frame_source_are_named_by_number(tmp_path: Path) -> None:
    # The slices lie downwards in the file, so imaging turns them round.
    stack = Stack(*AXIAL, step_mm=(0.0, 0.0, -2.0))
    mask = np.zeros((6, 24, 24), dtype=np.bool_)
    mask[1, 4:9, 4:9] = mask[4, 2:4, 2:4] = True
    example = volume_example(write_datasets([enhanced_ct(ct_voxels(*mask.shape), stack)], tmp_path / "in"), mask)
    written = _written(example, tmp_path / "out")
    frames = {
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber: int(frame.sum())
        for groups, frame in zip(written.PerFrameFunctionalGroupsSequence, written.pixel_array, strict=True)
    }
    assert frames == {5: 25, 2: 4}


def test_overlapping_segments_stay_whole(mr: Example, tmp_path: Path) -> None:
    base = mr.result.segments[0].mask
    half = base.copy()
    half[:, :20] = False
    written = _written(_with_masks(mr, base, half), tmp_path)
    assert written.SegmentsOverlap == "YES"
    numbers = [
        groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for groups in written.PerFrameFunctionalGroupsSequence
    ]
    voxels = {number: int(written.pixel_array[np.equal(numbers, number)].sum()) for number in (1, 2)}
    assert voxels == {1: int(base.sum()), 2: int(half.sum())}


def test_segments_side_by_side_with_one_of_them_empty(mr: Example, tmp_path: Path) -> None:
    upper, lower = mr.result.segments[0].mask.copy(), mr.result.segments[0].mask.copy()
    upper[:, 20:], lower[:, :20] = False, False
    written = _written(_with_masks(mr, upper, lower, np.zeros_like(upper)), tmp_path)
    assert len(written.SegmentSequence) == 3
    assert written.SegmentsOverlap == "NO"
    assert int(written.pixel_array.sum()) == int(upper.sum() + lower.sum())


def test_gaps_between_occupied_slices(mr: Example, tmp_path: Path) -> None:
    mask = np.zeros_like(mr.result.segments[0].mask)
    mask[[2, 7, 8], 5:9, 5:9] = True
    assert _written(_with_masks(mr, mask), tmp_path).NumberOfFrames == 3


def test_nothing_found_is_one_empty_frame(mr: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = _written(_with_masks(mr, np.zeros_like(mr.result.segments[0].mask)), tmp_path)
    assert written.NumberOfFrames == 1
    assert not written.pixel_array.any()
    # highdicom would tell the log of each empty result.
    assert not caplog.records


def test_radiograph_has_a_frame_for_each_segment_and_no_place(dx: Example, tmp_path: Path) -> None:
    right, left = (segment.mask for segment in dx.result.segments)
    written = _written(_with_masks(dx, right, np.zeros_like(left)), tmp_path)
    assert written.NumberOfFrames == 2
    assert "FrameOfReferenceUID" not in written
    assert "PlanePositionSequence" not in written.PerFrameFunctionalGroupsSequence[0]
    np.testing.assert_array_equal(written.pixel_array[0].astype(np.bool_), right)


def test_segments_are_described(dx: Example, tmp_path: Path) -> None:
    first, second = _written(dx, tmp_path).SegmentSequence
    assert (first.SegmentNumber, second.SegmentNumber) == (1, 2)
    assert first.SegmentLabel == "Right lung"
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    assert first.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "1.2.0"
    modifier = first.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert modifier.CodeMeaning == "Right"
    assert first.TrackingID == "right lung"


def test_lossy_sources_are_told(tmp_path: Path) -> None:
    series = mr_series(mr_voxels(3, 16, 16))
    for dataset in series:
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionRatio = "12"
        dataset.LossyImageCompressionMethod = "ISO_10918_1"
    example = volume_example(write_datasets(series, tmp_path / "in"))
    written = _written(example, tmp_path / "out")
    assert (written.LossyImageCompression, written.LossyImageCompressionRatio) == ("01", 12)


def test_volumes_without_a_frame_of_reference_get_their_own(tmp_path: Path) -> None:
    series = mr_series(mr_voxels(4, 16, 16))
    for dataset in series:
        del dataset.FrameOfReferenceUID
    example = volume_example(write_datasets(series, tmp_path / "in"))
    assert _written(example, tmp_path / "out").FrameOfReferenceUID.startswith("2.25.")


def test_sources_in_another_order_are_refused(mr: Example) -> None:
    turned = SourceImages(mr.sources.datasets[::-1])
    with pytest.raises(ResultError, match="not the frames of the image"):
        write_segmentation(mr.result, turned, mr.context)


def test_a_segmentation_needs_a_segment(mr: Example) -> None:
    result: InferenceResult = replace(mr.result, segments=(), findings=())
    with pytest.raises(ResultError, match="needs a segment"):
        write_segmentation(result, mr.sources, mr.context)


def test_refused_sources_leave_no_trace_of_the_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Phantom^Test")

    example = volume_example(write_datasets(ct_series(ct_voxels(3, 16, 16)), tmp_path))
    monkeypatch.setattr("appliance.results.segmentation.Segmentation", refuse)
    with pytest.raises(ResultError) as caught:
        write_segmentation(example.result, example.sources, example.context)
    assert "Phantom" not in str(caught.value)
    assert caught.value.__cause__ is None
