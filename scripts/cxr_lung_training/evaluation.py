"""Readout and scores, at the size of the original image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cxr_lung_training.dataset import LEFT_LUNG, RIGHT_LUNG, ChestImage, resize

Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Image [256, 256] in 0..1 to probabilities [3, 256, 256]."""


@dataclass(frozen=True)
class Score:
    """How far the readout of one image agrees with its annotation.

    Dice coefficients are 0..1; `dice_raw` is without the clean-up of the masks. The errors are signed: the lung
    area and the right/left area ratio, each relative to the annotated value, in percent.
    """

    image_id: str
    patient_id: str
    projection: str
    dice: float
    dice_right: float
    dice_left: float
    dice_raw: float
    area_error_percent: float
    ratio_error_percent: float


def read_out(probabilities: NDArray[np.float32], rows: int, columns: int, *, clean: bool = True) -> NDArray[np.uint8]:
    """Turn probabilities [3, 256, 256] into labels [rows, columns]: 0 background, 1 right lung, 2 left lung.

    The probabilities are resized bilinearly to the original size. A pixel is lung where right and left together
    reach 0.5, and belongs to the likelier of the two. With `clean`, each lung keeps its largest connected part
    (8 neighbours) and its holes are filled.
    """
    right, left = (resize(probabilities[channel], rows, columns) for channel in (RIGHT_LUNG, LEFT_LUNG))
    lung = right + left >= 0.5
    labels = np.zeros((rows, columns), dtype=np.uint8)
    for value, chosen in ((RIGHT_LUNG, lung & (right >= left)), (LEFT_LUNG, lung & (left > right))):
        labels[_largest_part(chosen) if clean else chosen] = value
    return labels


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    parts, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count == 0:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(parts == sizes.argmax()), dtype=np.bool_)


def _dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    total = int(first.sum()) + int(second.sum())
    return 2.0 * int((first & second).sum()) / total if total else 1.0


def score(image: ChestImage, predict: Predictor) -> Score:
    """Predict one image and compare with its annotation, where that is known."""
    truth, known = image.native_labels, image.native_known
    probabilities = predict(image.image)
    labels = read_out(probabilities, *truth.shape) * known
    raw = read_out(probabilities, *truth.shape, clean=False) * known
    areas = [[max(int((one == value).sum()), 1) for value in (RIGHT_LUNG, LEFT_LUNG)] for one in (labels, truth)]
    return Score(
        image.image_id,
        image.patient_id,
        image.projection,
        dice=_dice(labels > 0, truth > 0),
        dice_right=_dice(labels == RIGHT_LUNG, truth == RIGHT_LUNG),
        dice_left=_dice(labels == LEFT_LUNG, truth == LEFT_LUNG),
        dice_raw=_dice(raw > 0, truth > 0),
        area_error_percent=100.0 * (sum(areas[0]) / sum(areas[1]) - 1.0),
        ratio_error_percent=100.0 * (areas[0][0] * areas[1][1] / (areas[0][1] * areas[1][0]) - 1.0),
    )


def summarise(scores: Sequence[Score]) -> dict[str, float]:
    """Return the figures of the model card over a set of images: means, medians and worst cases."""
    column = {name: np.array([asdict(one)[name] for one in scores]) for name in _FIGURES}
    patients = sorted({one.patient_id for one in scores})
    by_patient = [np.mean([one.dice for one in scores if one.patient_id == patient]) for patient in patients]
    area, ratio = np.abs(column["area_error_percent"]), np.abs(column["ratio_error_percent"])
    figures = {
        "images": float(len(scores)),
        "patients": float(len(patients)),
        "dice_mean": column["dice"].mean(),
        "dice_median": np.median(column["dice"]),
        "dice_worst": column["dice"].min(),
        "dice_mean_of_patients": np.mean(by_patient),
        "dice_right_mean": column["dice_right"].mean(),
        "dice_left_mean": column["dice_left"].mean(),
        "dice_raw_mean": column["dice_raw"].mean(),
        "dice_raw_worst": column["dice_raw"].min(),
        "area_error_percent_mean_signed": column["area_error_percent"].mean(),
        "area_error_percent_mean_absolute": area.mean(),
        "area_error_percent_worst": area.max(),
        "ratio_error_percent_mean_signed": column["ratio_error_percent"].mean(),
        "ratio_error_percent_mean_absolute": ratio.mean(),
        "ratio_error_percent_worst": ratio.max(),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


_FIGURES = ("dice", "dice_right", "dice_left", "dice_raw", "area_error_percent", "ratio_error_percent")
