"""Figures of agreement, by examples that can be counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.readout import agreement
from appliance.readout.agreement import dice, max_difference, size_difference


def row(text: str) -> NDArray[np.bool_]:
    """A mask of two axes, ``#`` is inside."""
    return np.array([[sign == "#" for sign in text]])


@pytest.mark.parametrize(
    ("candidate", "reference", "overlap", "size"),
    [
        ("##..", "##..", 1.0, 0.0),
        ("##..", "..##", 0.0, 0.0),
        ("###.", "##..", 0.8, 0.5),
        ("#...", "##..", 2 / 3, -0.5),
        ("....", "....", 1.0, 0.0),
        ("....", "##..", 0.0, -1.0),
        ("#...", "....", 0.0, math.inf),
    ],
)
def test_masks(candidate: str, reference: str, overlap: float, size: float) -> None:
    assert dice(row(candidate), row(reference)) == pytest.approx(overlap)
    assert size_difference(row(candidate), row(reference)) == pytest.approx(size)


def test_largest_difference() -> None:
    reference = np.zeros((1, 2, 3, 4), np.float32)
    candidate = reference.copy()
    candidate[0, 1, 2, 3] = -0.25
    assert max_difference(reference, reference) == 0.0
    assert max_difference(candidate, reference) == 0.25


def test_the_largest_difference_is_found_in_every_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_PIECE", 5)
    reference = np.zeros((2, 7), np.float32)
    for place in range(reference.size):
        candidate = reference.copy()
        candidate.reshape(-1)[place] = 3
        assert max_difference(candidate, reference) == 3.0


def test_unsigned_labels_do_not_wrap_around() -> None:
    assert max_difference(np.array([[0]], np.uint8), np.array([[255]], np.uint8)) == 255.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_agrees_with_nothing(value: float) -> None:
    broken = np.array([[0, value]], np.float32)
    assert max_difference(broken, np.zeros((1, 2), np.float32)) == math.inf


@pytest.mark.parametrize("figure", [dice, size_difference, max_difference])
def test_other_shapes_are_the_callers_defect(figure: object) -> None:
    with pytest.raises(ValueError, match="one shape"):
        figure(np.zeros((1, 2), bool), np.zeros((2, 1), bool))  # type: ignore[operator]
