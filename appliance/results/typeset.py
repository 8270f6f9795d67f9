"""Text in pictures: one anti-aliased font, which ships with Pillow, at any size."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from PIL import ImageDraw, ImageFont

from appliance.results.text import plain

Color = tuple[int, int, int]

# The font knows little beyond Latin; squares and cubes of units are set as raised digits.
_RAISED: Final = {"²": "2", "³": "3"}
_RAISED_DIGIT: Final = re.compile("([²³])")


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font at ``size`` pixels."""
    return ImageFont.load_default(size)


def draw_text(
    draw: ImageDraw.ImageDraw, position: tuple[float, float], text: str, size: int, color: Color, limit: float = 1e9
) -> float:
    """Draw one line with its left edge and the middle of its height at ``position``; return its width.

    Text that is wider than ``limit`` pixels is cut, with dots at its end.
    """
    shown = text
    while text_width(shown, size) > limit and text:
        text = text[:-1].rstrip()
        shown = f"{text}..."
    x, y = position
    for run, raised in _runs(shown):
        face = font(int(size * 0.7)) if raised else font(size)
        draw.text((x, y - size * 0.28 if raised else y), run, font=face, fill=color, anchor="lm")
        x += _run_width(run, raised, size)
    return x - position[0]


def text_width(text: str, size: int) -> float:
    """Width in pixels that ``draw_text`` takes."""
    return sum(_run_width(run, raised, size) for run, raised in _runs(text))


def wrapped(text: str, size: int, width: float) -> list[str]:
    """``text`` broken into lines of at most ``width`` pixels."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@lru_cache(maxsize=256)
def _run_width(run: str, raised: bool, size: int) -> float:
    """Each text is measured to be placed, to be cut and to be drawn, and measuring takes longer than drawing."""
    return font(int(size * 0.7) if raised else size).getlength(run)


@lru_cache(maxsize=256)
def _runs(text: str) -> list[tuple[str, bool]]:
    """``text`` in pieces, each with whether it is raised."""
    pieces = _RAISED_DIGIT.split(text)
    return [
        (_RAISED[piece], True) if piece in _RAISED else ("·".join(plain(part) for part in piece.split("·")), False)
        for piece in pieces
        if piece
    ]
