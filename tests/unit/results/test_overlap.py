"""Two stored segmentations of one series: how far their segments overlap."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from appliance.results.overlap import segment_overlap

_SLICES = ("1.1", "1.2", "1.3")


def segmentation(**masks: np.ndarray) -> Dataset:
    """What ``segment_overlap`` reads of a SEG: bool ``[slice, 4, 8]`` by label; empty frames are left out."""
    dataset = Dataset()
    dataset.Rows, dataset.Columns = 4, 8
    dataset.SegmentSequence, frames, planes = [], [], []
    for number, (label, mask) in enumerate(masks.items(), start=1):
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, label
        dataset.SegmentSequence.append(segment)
        for uid, plane in zip(_SLICES, mask, strict=True):
            if plane.any():
                planes.append(plane)
                frames.append(groups(number, uid))
    dataset.NumberOfFrames = len(planes)
    dataset.PixelData = np.packbits(np.concatenate([plane.ravel() for plane in planes]), bitorder="little").tobytes()
    dataset.SharedFunctionalGroupsSequence = [Dataset()]
    dataset.PerFrameFunctionalGroupsSequence = frames
    return dataset


def groups(number: int, uid: str) -> Dataset:
    found, identification, derivation, source = Dataset(), Dataset(), Dataset(), Dataset()
    identification.ReferencedSegmentNumber = number
    found.SegmentIdentificationSequence = [identification]
    source.ReferencedSOPInstanceUID = uid
    derivation.SourceImageSequence = [source]
    found.DerivationImageSequence = [derivation]
    return found


def box(slices: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((3, 4, 8), np.bool_)
    mask[slices, :, columns] = True
    return mask


def test_by_label_and_by_source_image() -> None:
    one = segmentation(Brain=box(slice(0, 2), slice(0, 4)), Ventricle=box(slice(0, 1), slice(0, 1)))
    other = segmentation(
        Ventricle=box(slice(0, 1), slice(0, 1)), Brain=box(slice(1, 3), slice(0, 4)), Cyst=box(slice(1), slice(1))
    )
    assert segment_overlap(one, other) == {"Brain": 0.5, "Ventricle": 1.0, "Cyst": 0.0}


def test_the_same() -> None:
    one = segmentation(Brain=box(slice(0, 3), slice(2, 5)))
    assert segment_overlap(one, one) == {"Brain": 1.0}


@pytest.mark.parametrize("shift", [1, 2, 3, 4])
def test_shifted(shift: int) -> None:
    one, other = box(slice(0, 3), slice(0, 4)), box(slice(0, 3), slice(shift, shift + 4))
    assert segment_overlap(segmentation(A=one), segmentation(A=other))["A"] == pytest.approx(1 - shift / 4)
