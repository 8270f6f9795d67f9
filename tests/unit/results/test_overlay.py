"""The picture: proportions, outlines that hide nothing, letters, words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from appliance.domain.geometry import Grid
from appliance.domain.image import ImageVolume, ProjectionImage, SourceFrame
from appliance.results.capture import write_captures
from appliance.results.greyscale import grey_levels
from appliance.results.orientation import EdgeLetters, edge_letters
from appliance.results.outline import draw_outline
from appliance.results.overlay import best_view, render_overlay
from appliance.results.typeset import text_width, wrapped
from tests.support.dicom_factory import AXIAL, CORONAL, SAGITTAL, Stack, chest_pixels, radiograph, write_datasets
from tests.unit.results.examples import Example, radiograph_example

_HEADER = 84


def _volume(stack: Stack) -> ImageVolume:
    frames = (SourceFrame("1.2", "1.2.1"), SourceFrame("1.2", "1.2.2"))
    return ImageVolume(np.zeros((2, 4, 4), np.float32), Grid((2, 4, 4), stack.affine()), frames, None, "MR")


@pytest.mark.parametrize(
    ("stack", "letters"),
    [
        (Stack(*AXIAL), EdgeLetters(left="R", right="L", top="A", bottom="P")),
        (Stack(*SAGITTAL), EdgeLetters(left="A", right="P", top="H", bottom="F")),
        (Stack(*CORONAL), EdgeLetters(left="R", right="L", top="H", bottom="F")),
        (Stack((0.8, 0.6, 0.0), (-0.6, 0.8, 0.0)), EdgeLetters(left="RA", right="LP", top="AL", bottom="PR")),
    ],
)
def test_letters_of_slices(stack: Stack, letters: EdgeLetters) -> None:
    assert edge_letters(_volume(stack)) == letters


def test_letters_of_radiographs() -> None:
    def image(orientation: tuple[str, str] | None) -> ProjectionImage:
        return ProjectionImage(np.zeros((4, 4), np.float32), None, "", orientation, SourceFrame("1.2", "1.3"), "CR")

    assert edge_letters(image(("L", "F"))) == EdgeLetters("R", "L", "H", "F")
    assert edge_letters(image(("PL", "FR"))) == EdgeLetters("AR", "PL", "HL", "FR")
    assert edge_letters(image(None)) == EdgeLetters("", "", "", "")


def test_best_view_is_the_slice_with_the_largest_masks(mr: Example) -> None:
    mask = np.zeros_like(mr.result.segments[0].mask)
    mask[3, :4, :4] = mask[9, :9, :9] = True
    result = replace(mr.result, segments=(replace(mr.result.segments[0], mask=mask),))
    view = best_view(result, mr.sources)
    assert view.place == "Slice 10 of 12"
    assert view.frame == mr.result.image.frames[9]
    nothing = replace(mr.result.segments[0], mask=np.zeros_like(mask))
    assert best_view(replace(mr.result, segments=(nothing,)), mr.sources).place == "Slice 7 of 12"


def test_pixels_are_square_in_the_patient(mr: Example) -> None:
    # 40 rows of 0.9 mm and 48 columns of 0.8 mm: 36 × 38.4 mm
    picture = render_overlay(mr.result, mr.sources, mr.context)
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 768
    without_legend = picture.shape[0] - _HEADER
    assert without_legend > 768 * 36 / 38.4


def test_radiographs_keep_their_proportions(tmp_path: Path) -> None:
    source = radiograph(chest_pixels(300, 100), "CR", spacing_mm=(0.1, 0.3))
    example = radiograph_example(write_datasets([source], tmp_path)[0])
    # 300 rows of 0.1 mm and 100 columns of 0.3 mm are a square.
    view = best_view(example.result, example.sources)
    assert view.aspect == pytest.approx(1 / 3)
    picture = render_overlay(example.result, example.sources, example.context)
    assert picture.shape[1] == 768


def test_large_radiographs_are_scaled_down(tmp_path: Path) -> None:
    path = write_datasets([radiograph(chest_pixels(2500, 2048))], tmp_path)[0]
    example = radiograph_example(path)
    picture = render_overlay(example.result, example.sources, example.context)
    assert picture.shape[0] < 1024 + 400
    assert 640 <= picture.shape[1] <= 1024


@pytest.mark.parametrize(("scale", "block"), [(0.25, 1), (0.25, 4), (0.4, 2), (1, 1), (4, 1)])
def test_outlines_follow_the_edge_and_hide_nothing(scale: float, block: int) -> None:
    mask = np.zeros((200, 160), dtype=np.bool_)
    mask[60:140, 40:120] = True
    size = int(160 * scale), int(200 * scale)
    picture = Image.new("RGB", size, (100, 100, 100))
    draw_outline(picture, mask, (255, 0, 0), block)
    pixels = np.asarray(picture)
    touched = np.any(pixels != 100, axis=2)
    rows, columns = np.nonzero(pixels[..., 0] > 200)
    # The line runs along the edge of the mask, half inside and half outside.
    for found, edge in ((rows.min(), 60), (rows.max() + 1, 140), (columns.min(), 40), (columns.max() + 1, 120)):
        assert abs(found - edge * scale) <= max(2, scale * 0.5 + 1)
    # Inside and outside stay as they were: the line is thin.
    middle = touched[int(75 * scale) : int(125 * scale), int(55 * scale) : int(105 * scale)]
    assert not middle.any()
    assert touched.mean() < 0.045 / scale + 0.02


@pytest.mark.parametrize(("side", "block"), [(50, 1), (299, 3)])
def test_outlines_at_the_border_of_the_image_are_drawn(side: int, block: int) -> None:
    picture = Image.new("RGB", (100, 100), (100, 100, 100))
    draw_outline(picture, np.ones((side, side), dtype=np.bool_), (255, 0, 0), block)
    pixels = np.asarray(picture)
    assert np.all(pixels[0, 5:95, 0] > 150)
    assert np.all(pixels[5:95, -1, 0] > 150)


def test_an_empty_mask_draws_nothing() -> None:
    picture = Image.new("RGB", (10, 10))
    draw_outline(picture, np.zeros((5, 5), dtype=np.bool_), (255, 0, 0))
    assert not np.asarray(picture).any()


def test_the_window_of_the_source_is_used_when_it_shows_something() -> None:
    pixels = np.linspace(0, 1000, 10_000, dtype=np.float32).reshape(100, 100)
    assert grey_levels(pixels, (500, 200))[40, 0] == 0
    assert grey_levels(pixels, (500, 200))[60, 50] == 255
    # Windows in which the image is black, or flat, give way to its own range.
    for useless in ((90_000, 10), (0, 100_000)):
        np.testing.assert_array_equal(grey_levels(pixels, useless), grey_levels(pixels, None))
    assert grey_levels(pixels, None).max() == 255
    assert not grey_levels(np.full((5, 5), 7, np.float32), None).any()


def test_text_is_measured_and_broken() -> None:
    assert text_width("cm²", 20) < text_width("cm2", 20)
    lines = wrapped("one two three four five six", 15, 80)
    assert len(lines) > 1
    assert all(text_width(line, 15) <= 80 for line in lines)


def test_captures_say_what_they_are(dx: Example) -> None:
    (capture,) = write_captures(dx.result, dx.sources, dx.context)
    assert capture.BurnedInAnnotation == "YES"
    assert capture.PhotometricInterpretation == "RGB"
    assert list(capture.PatientOrientation) == ["L", "F"]
    assert capture.ImageComments.startswith("AI result, for research use, verify")
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == dx.sources.sop_instance_uid
    assert len(capture.PixelData) % 2 == 0


def test_long_words_and_many_findings_fit(dx: Example) -> None:
    finding = replace(dx.result.findings[0], measurements=dx.result.findings[0].measurements * 6, segment=None)
    result = replace(
        dx.result, title="A title that goes on " * 9, findings=(finding,) * 9, notes=("Many words of a note. " * 40,)
    )
    picture = render_overlay(result, dx.sources, dx.context)
    assert picture.shape[1] == 640 or picture.shape[1] <= 1024
