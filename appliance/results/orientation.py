"""Which way the edges of a picture look in the patient (PS3.3 section C.7.6.1.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from appliance.domain.image import Image, ImageVolume

_OPPOSITE: Final = str.maketrans("RLAPHF", "LRPAFH")
# Directions closer than this to an axis of the patient are named by that axis alone: 15 degrees.
_OBLIQUE_SINE: Final = 0.26


@dataclass(frozen=True, slots=True)
class EdgeLetters:
    """Patient directions at the edges of a picture: R, L, A, P, H, F, or two of them; empty when unknown."""

    left: str
    right: str
    top: str
    bottom: str


def edge_letters(image: Image) -> EdgeLetters:
    """The letters of an image (or of any slice of a volume), rows from top to bottom."""
    if isinstance(image, ImageVolume):
        right = _named(image.grid.affine[:3, 2].tolist())
        bottom = _named(image.grid.affine[:3, 1].tolist())
    else:
        right, bottom = image.patient_orientation or ("", "")
    return EdgeLetters(opposite(right), right, opposite(bottom), bottom)


def opposite(direction: str) -> str:
    """``LF`` for ``RH`` and so on."""
    return direction.translate(_OPPOSITE)


def _named(vector: Sequence[float]) -> str:
    """The one or two patient directions that ``vector`` (LPS) points to most, the foremost first."""
    unit = np.asarray(vector) / np.linalg.norm(vector)
    letters = ["RL"[int(unit[0] > 0)], "AP"[int(unit[1] > 0)], "FH"[int(unit[2] > 0)]]
    order = [int(axis) for axis in np.argsort(-np.abs(unit)) if abs(unit[axis]) > _OBLIQUE_SINE]
    return "".join(letters[axis] for axis in order[:2])
