"""The picture of a result: the image in grey, the outlines of what was found, and in words what was measured.

Nothing of the image is covered but by thin outlines, orientation letters and a scale bar; everything else stands
above and below it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from appliance.domain.image import ImageVolume, SourceFrame
from appliance.domain.result import InferenceResult, Measurement
from appliance.results.context import ResultContext
from appliance.results.greyscale import grey_levels
from appliance.results.orientation import EdgeLetters, edge_letters
from appliance.results.outline import draw_outline
from appliance.results.sources import SourceImages
from appliance.results.text import AI_STATEMENT
from appliance.results.typeset import Color, draw_text, font, text_width, wrapped

_LONGEST: Final = 1024
_SHORTEST_LONGEST: Final = 768
_LEAST_WIDTH: Final = 640
_MARGIN: Final = 20
_HEADER: Final = 84
_FOOTER: Final = 44
_LEGEND_ROW: Final = 32
_NOTE_ROW: Final = 21
_MOST_NOTE_ROWS: Final = 5

_BACKGROUND: Final[Color] = (14, 17, 22)
_WHITE: Final[Color] = (240, 243, 246)
_GREY: Final[Color] = (150, 158, 168)
_AMBER: Final[Color] = (255, 190, 60)
_UNIT_SIGNS: Final = {
    "cm2": "cm²",
    "mm2": "mm²",
    "cm3": "cm³",
    "mm3": "mm³",
    "1": "",
    "{ratio}": "",
    "{pixels}": "pixels",
}


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One plane of an image with what lies on it.

    Attributes
    ----------
    pixels
        float32 ``[row, column]``, after the modality LUT.
    masks
        bool ``[row, column]``, one for each segment of the result.
    window
        Center and width to show it with, or ``None``.
    aspect
        Row spacing over column spacing.
    column_spacing_mm
        For the scale bar; ``None`` when no honest figure exists.
    place
        Which plane it is, in words; empty for a radiograph.
    frame
        Where the plane comes from.
    """

    pixels: NDArray[np.float32]
    masks: tuple[NDArray[np.bool_], ...]
    window: tuple[float, float] | None
    aspect: float
    column_spacing_mm: float | None
    letters: EdgeLetters
    place: str
    frame: SourceFrame


def best_view(result: InferenceResult, sources: SourceImages) -> View:
    """The radiograph, or the slice that shows most of the masks (without any: the middle one).

    Each mask counts by the share of it that a slice shows, so that a small one is not lost beside a large one.
    """
    image = result.image
    if not isinstance(image, ImageVolume):
        return View(
            pixels=image.pixels,
            masks=tuple(segment.mask for segment in result.segments),
            # Imaging may have turned MONOCHROME1 over and applied the VOI LUT: no window of the source fits any more.
            window=None,
            aspect=sources.pixel_aspect(),
            column_spacing_mm=image.pixel_spacing_mm[1] if image.pixel_spacing_mm is not None else None,
            letters=edge_letters(image),
            place="",
            frame=image.frame,
        )
    shown = np.zeros(image.grid.shape[0])
    for segment in result.segments:
        # Plane by plane, which NumPy counts ten times as fast as along axes.
        areas = np.array([np.count_nonzero(plane) for plane in segment.mask])
        shown += areas / max(1, areas.sum())
    index = int(shown.argmax()) if shown.any() else image.grid.shape[0] // 2
    _, row_spacing, column_spacing = image.grid.spacing_mm
    return View(
        pixels=image.voxels[index],
        masks=tuple(segment.mask[index] for segment in result.segments),
        window=sources.window(image.frames[index]),
        aspect=row_spacing / column_spacing,
        column_spacing_mm=column_spacing,
        letters=edge_letters(image),
        place=f"Slice {index + 1} of {image.grid.shape[0]}",
        frame=image.frames[index],
    )


def render_overlay(
    result: InferenceResult, sources: SourceImages, context: ResultContext, view: View | None = None
) -> NDArray[np.uint8]:
    """Draw ``view`` of ``result``, or its best view.

    Returns
    -------
    NDArray[np.uint8]
        sRGB ``[row, column, 3]``, the caller's own. The image in it has square pixels in the patient, its longer side
        768 to 1024 pixels.
    """
    view = best_view(result, sources) if view is None else view
    picture, pixel_mm = _picture(view, [segment.color for segment in result.segments])
    width = max(picture.width, _LEAST_WIDTH)
    legend = _legend(result)
    notes = _notes(result, width - 2 * _MARGIN)
    below = _MARGIN // 2 + len(legend) * _LEGEND_ROW + len(notes) * _NOTE_ROW + _MARGIN // 2
    canvas = Image.new("RGB", (width, _HEADER + picture.height + below + _FOOTER), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)

    left = (width - picture.width) // 2
    canvas.paste(picture, (left, _HEADER))
    _draw_letters(draw, view.letters, (left, _HEADER, left + picture.width, _HEADER + picture.height))
    if pixel_mm is not None:
        _draw_scale_bar(draw, (left + picture.width, _HEADER + picture.height), pixel_mm, picture.width)
    _draw_header(draw, result, context, view.place, width)
    y = _HEADER + picture.height + _MARGIN // 2
    for row in legend:
        _draw_legend_row(draw, row, y + _LEGEND_ROW / 2, width)
        y += _LEGEND_ROW
    for line in notes:
        draw_text(draw, (_MARGIN, y + _NOTE_ROW / 2), line, 15, _GREY)
        y += _NOTE_ROW
    _draw_footer(draw, canvas.width, canvas.height)
    return np.array(canvas)


def _picture(view: View, colors: Sequence[Color]) -> tuple[Image.Image, float | None]:
    """The plane with its outlines, and the width of its pixels in mm."""
    rows, columns = view.pixels.shape
    pixels, aspect = view.pixels, view.aspect
    longest = max(rows * aspect, columns)
    wanted = min(max(longest, _SHORTEST_LONGEST), _LONGEST)
    # A large radiograph is first averaged over whole blocks: as smooth as any filter, and much quicker. When that
    # gives a good size it stays, else the rest is interpolated.
    block = math.ceil(longest / wanted)
    if block > 1 and longest / block < _SHORTEST_LONGEST:
        block -= 1
    else:
        wanted = longest / block if block > 1 else wanted
    if block > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(block))
    scale = wanted / longest
    size = max(1, round(columns * scale)), max(1, round(rows * aspect * scale))
    grey = Image.fromarray(grey_levels(pixels, view.window))
    if abs(grey.width - size[0]) > 1 or abs(grey.height - size[1]) > 1:
        grey = grey.resize(size, Image.Resampling.BICUBIC)
    picture = grey.convert("RGB")
    for mask, color in zip(view.masks, colors, strict=True):
        draw_outline(picture, mask, color, block)
    return picture, None if view.column_spacing_mm is None else view.column_spacing_mm / scale


@dataclass(frozen=True, slots=True)
class _LegendRow:
    label: str
    values: str
    color: Color | None


def _legend(result: InferenceResult) -> list[_LegendRow]:
    rows = []
    for finding in result.findings:
        segment = None if finding.segment is None else result.segments[finding.segment]
        label = finding.finding.meaning if segment is None else segment.label
        if segment is None and finding.laterality is not None:
            label = f"{label}, {finding.laterality.meaning.lower()}"
        rows.append(_LegendRow(label, _values(finding.measurements), None if segment is None else segment.color))
    measured = {finding.segment for finding in result.findings}
    rows += [
        _LegendRow(segment.label, "", segment.color)
        for index, segment in enumerate(result.segments)
        if index not in measured
    ]
    rows += [_LegendRow(measurement.concept.meaning, _shown(measurement), None) for measurement in result.overall]
    return rows


def _values(measurements: Sequence[Measurement]) -> str:
    return "   ".join(f"{measurement.concept.meaning} {_shown(measurement)}" for measurement in measurements)


def _shown(measurement: Measurement) -> str:
    unit = _UNIT_SIGNS.get(measurement.unit.value, measurement.unit.value)
    return f"{measurement.value:.{measurement.digits}f} {unit}".rstrip()


def _notes(result: InferenceResult, width: int) -> list[str]:
    sentences = list(result.notes)
    if not isinstance(result.image, ImageVolume) and result.image.spacing_note not in sentences:
        sentences.insert(0, result.image.spacing_note)
    lines = [line for sentence in sentences for line in wrapped(sentence, 15, width)]
    return lines if len(lines) <= _MOST_NOTE_ROWS else [*lines[: _MOST_NOTE_ROWS - 1], "More in the report."]


def _draw_header(
    draw: ImageDraw.ImageDraw, result: InferenceResult, context: ResultContext, place: str, width: int
) -> None:
    right = width - _MARGIN - text_width(place, 16)
    draw_text(draw, (right, 30), place, 16, _GREY)
    draw_text(draw, (_MARGIN, 30), result.title, 27, _WHITE, limit=right - 2 * _MARGIN)
    algorithm = result.algorithm
    parts = [f"{algorithm.name} {algorithm.version}", context.model_key, f"{context.created_at:%Y-%m-%d %H:%M}"]
    if context.model_key == f"{algorithm.name}/{algorithm.version}":
        del parts[1]
    caption = " · ".join(parts)
    draw_text(draw, (_MARGIN, 62), caption, 16, _GREY, limit=width - 2 * _MARGIN)


def _draw_legend_row(draw: ImageDraw.ImageDraw, row: _LegendRow, y: float, width: int) -> None:
    x = float(_MARGIN)
    if row.color is not None:
        draw.rounded_rectangle((x, y - 3, x + 26, y + 3), radius=3, fill=row.color)
    x += 40
    values = width - _MARGIN - text_width(row.values, 19)
    # Label and values on one line; values too long for it lose their end rather than the label.
    x += draw_text(draw, (x, y), row.label, 19, _WHITE, limit=max(values - x - _MARGIN, width * 0.35))
    draw_text(draw, (max(values, x + _MARGIN), y), row.values, 19, _AMBER, limit=width - _MARGIN - x - _MARGIN)


def _draw_footer(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    draw.rectangle((0, height - _FOOTER, width, height), fill=_AMBER)
    x = (width - text_width(AI_STATEMENT, 21)) / 2
    draw_text(draw, (x, height - _FOOTER / 2), AI_STATEMENT, 21, _BACKGROUND)


def _draw_letters(draw: ImageDraw.ImageDraw, letters: EdgeLetters, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    places = (
        (letters.left, (left + 12, middle_y), "lm"),
        (letters.right, (right - 12, middle_y), "rm"),
        (letters.top, (middle_x, top + 12), "mt"),
        (letters.bottom, (middle_x, bottom - 12), "mb"),
    )
    for letter, place, anchor in places:
        draw.text(place, letter, font=font(24), fill=_WHITE, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def _draw_scale_bar(draw: ImageDraw.ImageDraw, corner: tuple[int, int], pixel_mm: float, picture_width: int) -> None:
    """A bar of a round length, at most a quarter of the picture, in its lower right corner."""
    lengths_mm = [length for length in (100, 50, 20, 10, 5, 2, 1) if length / pixel_mm <= picture_width / 4]
    if not lengths_mm:
        return
    x, y = corner[0] - 16, corner[1] - 18
    length = lengths_mm[0] / pixel_mm
    draw.line((x - length, y, x, y), fill=(0, 0, 0), width=6)
    draw.line((x - length + 1, y, x - 1, y), fill=_WHITE, width=3)
    words = f"{lengths_mm[0] // 10} cm" if lengths_mm[0] >= 10 else f"{lengths_mm[0]} mm"
    draw.text((x, y - 7), words, font=font(16), fill=_WHITE, anchor="rb", stroke_width=2, stroke_fill=(0, 0, 0))
