"""How far two stored segmentations of the same images overlap, segment by segment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from appliance.results.readback import read_segmentation

_Place = tuple[str, int | None]


def segment_overlap(one: Dataset, other: Dataset) -> dict[str, float]:
    """Dice's coefficient of each segment, by its label, over all source images; 0 to 1.

    A segment that only one of the two has, or of whose label there are none on the same images, overlaps by 0. Labels
    stand in the order of ``one``, then those that only ``other`` has.

    Parameters
    ----------
    one, other
        Parsed binary segmentations of the same images; frames are matched by the source image that they lie on.
    """
    masks, others = _masks(one), _masks(other)
    return {label: _dice(masks.get(label, {}), others.get(label, {})) for label in [*masks, *others]}


def _masks(dataset: Dataset) -> dict[str, dict[_Place, NDArray[np.bool_]]]:
    """Segment label → source image → mask; frames without a pixel are left out, as writers may do."""
    labels = {int(item.SegmentNumber): str(item.SegmentLabel) for item in dataset.SegmentSequence}
    masks: dict[str, dict[_Place, NDArray[np.bool_]]] = {label: {} for label in labels.values()}
    for frame in read_segmentation(dataset):
        if frame.mask.any():
            masks[labels[frame.segment_number]][frame.source] = frame.mask
    return masks


def _dice(one: dict[_Place, NDArray[np.bool_]], other: dict[_Place, NDArray[np.bool_]]) -> float:
    both = sum(int(np.count_nonzero(mask & other[place])) for place, mask in one.items() if place in other)
    size = sum(int(np.count_nonzero(mask)) for masks in (one, other) for mask in masks.values())
    return 1.0 if size == 0 else 2.0 * both / size
