"""Images, targets and splits of the public Hannover / V7 chest radiograph set.

The mask files of this set do not lie on the images as they are. The polygons were drawn on the central square of
each image, and the files spread that square over the whole image: a mask of a 640 x 524 image is 22 % too wide.
`register` puts this right, as overlays show. Five masks still do not fit, probably because the annotated copy was
also straightened; they are left out (`MISREGISTERED`).
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

SIZE = 256
BACKGROUND, RIGHT_LUNG, LEFT_LUNG = 0, 1, 2
MISREGISTERED = frozenset({"436a6348", "4c0fcf57", "4fed5061", "a4318ac9", "cb706009"})


@dataclass(frozen=True)
class ChestImage:
    """One radiograph, ready for training and for scoring.

    `image` is float32 [256, 256] in 0..1 (see `preprocess`); `target` is float32 [3, 256, 256]: the share of
    each pixel that is right lung and left lung (fractions only on outlines), and the share that is known.
    `native_labels` is uint8 [rows, columns] with the values 0, 1 and 2 at the size of the file, `native_known` is
    bool of the same shape, false where the annotation was cut off (see `register`).
    """

    image_id: str
    patient_id: str
    projection: str
    image: NDArray[np.float32]
    target: NDArray[np.float32]
    native_labels: NDArray[np.uint8]
    native_known: NDArray[np.bool_]


def resize(pixels: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Resize a float32 [rows, columns] image bilinearly, with anti-aliasing where it shrinks."""
    picture = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR), dtype=np.float32)


def preprocess(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn displayed grey values [rows, columns] (high is bright) into the model input [256, 256] in 0..1.

    The 1 % and 99 % quantiles of the whole image become 0 and 1, values outside are clipped, then the image is
    stretched to 256 x 256: the aspect ratio is not kept. A constant image becomes all zeros.
    """
    low, high = np.quantile(pixels, (0.01, 0.99))
    if high <= low:
        return np.zeros((SIZE, SIZE), dtype=np.float32)
    scaled = np.clip((pixels - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return resize(scaled, SIZE, SIZE)


def register(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the mask [rows, columns] moved to where it belongs, and which pixels it says something about.

    A lung that goes on beyond the annotated square ends in a straight line there. On that side, nothing is known
    outside of the square; on the other sides there is no lung.
    """
    rows, columns = mask.shape
    side = min(rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    square = np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))
    moved, known = np.zeros_like(mask), np.ones_like(mask)
    moved[top : top + side, left : left + side] = square
    cut_off = 0.02 * side
    if square[:, 0].sum() > cut_off:
        known[:, :left] = False
    if square[:, -1].sum() > cut_off:
        known[:, left + side :] = False
    if square[0].sum() > cut_off:
        known[:top] = False
    if square[-1].sum() > cut_off:
        known[top + side :] = False
    return moved, known


def label_lungs(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Split a mask of both lungs [rows, columns] into right (1) and left (2) lung.

    A frontal radiograph is displayed as if the patient faced the reader, so the right lung is on the left side
    of the image. Raises ValueError unless the mask has exactly two connected parts, which holds for each mask
    of this set and was checked by eye.
    """
    parts, count = ndimage.label(mask)
    if count != 2:
        raise ValueError(f"a lung mask must have two connected parts, this one has {count}: correct the mask")
    columns = [ndimage.center_of_mass(parts == part)[1] for part in (1, 2)]
    right_part = 1 if columns[0] < columns[1] else 2
    labels = np.zeros(mask.shape, dtype=np.uint8)
    labels[parts == right_part] = RIGHT_LUNG
    labels[parts == 3 - right_part] = LEFT_LUNG
    return labels


def load_dataset(folder: Path) -> list[ChestImage]:
    """Read `data.csv`, `images/*.png` and `masks/*.png` below `folder`, ordered by image id, less `MISREGISTERED`.

    Raises FileNotFoundError where a mask is missing and KeyError where `data.csv` does not know an image.
    """
    with (folder / "data.csv").open(newline="", encoding="utf-8") as table:
        rows = {row["image_id"]: row for row in csv.DictReader(table)}
    images = []
    for path in sorted((folder / "images").glob("*.png")):
        if path.stem in MISREGISTERED:
            continue
        pixels = np.asarray(Image.open(path).convert("L"), dtype=np.float32)
        mask, known = register(np.asarray(Image.open(folder / "masks" / path.name)).astype(bool))
        labels = label_lungs(mask)
        layers = (labels == RIGHT_LUNG, labels == LEFT_LUNG, known)
        target = np.stack([resize(layer.astype(np.float32), SIZE, SIZE) for layer in layers])
        row = rows[path.stem]
        images.append(
            ChestImage(path.stem, row["patient_id"], row["projection"], preprocess(pixels), target, labels, known)
        )
    return images


def patient_folds(images: Sequence[ChestImage], folds: int, seed: int) -> list[list[str]]:
    """Deal the patients into `folds` lists of patient ids with about equally many images in each.

    No patient is in two folds. Patients are dealt largest first, to the fold that has the fewest images, so that
    the patients with many follow-up images do not meet in one fold; the seed decides between equals.
    """
    counts: dict[str, int] = {}
    for image in images:
        counts[image.patient_id] = counts.get(image.patient_id, 0) + 1
    patients = sorted(counts)
    random.Random(seed).shuffle(patients)
    dealt: list[list[str]] = [[] for _ in range(folds)]
    for patient in sorted(patients, key=lambda patient: -counts[patient]):
        min(dealt, key=lambda fold: sum(counts[member] for member in fold)).append(patient)
    return [sorted(fold) for fold in dealt]
