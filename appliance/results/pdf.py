"""A draft report as a PDF of A4 pages: the patient, the words, the pictures, and on every page what it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import Any, Final
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Image as Picture
from reportlab.platypus import KeepTogether, SimpleDocTemplate, Spacer, Table, TableStyle
from reportlab.platypus import Paragraph as Block

from appliance.results.draft import Kind, Paragraph, Words
from appliance.results.text import plain

_MARGIN: Final = 20 * mm
_FOOTER: Final = 12 * mm
_PICTURE_HEIGHT: Final = 100 * mm
"""A report of usual length and its picture fit on one page."""
_INK, _GREY, _AMBER = HexColor("#1b1f24"), HexColor("#5b6470"), HexColor("#ffb81c")
_BODY: Final = ParagraphStyle("body", fontName="Helvetica", fontSize=10.5, leading=15, textColor=_INK)
_STYLES: Final[dict[Kind, ParagraphStyle]] = {
    "title": ParagraphStyle("title", _BODY, fontName="Helvetica-Bold", fontSize=17, leading=22, spaceAfter=2 * mm),
    "heading": ParagraphStyle(
        "heading", _BODY, fontName="Helvetica-Bold", fontSize=11.5, spaceBefore=4 * mm, spaceAfter=1 * mm
    ),
    "item": ParagraphStyle("item", _BODY, leftIndent=5 * mm, bulletIndent=1.5 * mm, spaceAfter=0.8 * mm),
    "text": _BODY,
}
_NOTICE: Final = ParagraphStyle(
    "notice", _BODY, fontSize=9.5, leading=13, borderPadding=4, backColor=HexColor("#fff4d9")
)
_LABEL: Final = ParagraphStyle("label", _BODY, fontSize=8, leading=10, textColor=_GREY)
_VALUE: Final = ParagraphStyle("value", _BODY, fontSize=10.5, leading=13)


def render_pdf(
    paragraphs: Sequence[Paragraph],
    facts: Sequence[tuple[str, str]],
    pictures: Sequence[NDArray[np.uint8]],
    words: Words,
) -> bytes:
    """Set a draft report.

    Parameters
    ----------
    paragraphs
        The first is the title.
    facts
        Labels and values that stand above it: whose report it is, and of when.
    pictures
        sRGB ``[row, column, 3]``, shown after the words.

    Returns
    -------
    bytes
        A PDF that is the same for the same input.
    """
    buffer = BytesIO()
    document = SimpleDocTemplate(
        buffer,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=_MARGIN,
        bottomMargin=_MARGIN + _FOOTER,
        title=_printable(paragraphs[0].words),
        subject=_printable(words.statement),
        lang=words.code.value,
        invariant=1,  # without the time of day and a random identifier
    )
    story: list[Any] = [_facts(facts), Spacer(0, 6 * mm)]
    for paragraph in paragraphs:
        story.append(_block(paragraph))
        if paragraph.kind == "title":
            story += [Block(_text(words.notice), _NOTICE), Spacer(0, 2 * mm)]
    for picture in pictures:
        story.append(KeepTogether([Spacer(0, 6 * mm), _picture(picture, document.width)]))
    footer = partial(_footer, words=words)
    document.build(story, onFirstPage=footer, onLaterPages=footer)
    return buffer.getvalue()


def _facts(facts: Sequence[tuple[str, str]]) -> Table:
    cells = [[Block(_text(label), _LABEL), Block(_text(value) or "-", _VALUE)] for label, value in facts]
    table = Table([cells], colWidths=[(A4[0] - 2 * _MARGIN) / max(1, len(cells))] * len(cells))
    table.setStyle(
        TableStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ("LINEBELOW", (0, 0), (-1, -1), 0.8, _GREY),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 6),
            ]
        )
    )
    return table


def _block(paragraph: Paragraph) -> Block:
    bullet = "\N{BULLET}" if paragraph.kind == "item" else None
    return Block(_text(paragraph.words), _STYLES[paragraph.kind], bulletText=bullet)


def _picture(pixels: NDArray[np.uint8], width: float) -> Picture:
    encoded = BytesIO()
    # As it is kept in the PDF: anything else would be unpacked and packed again, which takes a second.
    Image.fromarray(pixels).save(encoded, "JPEG", quality=92, subsampling=0)
    encoded.seek(0)
    scale = min(width / pixels.shape[1], _PICTURE_HEIGHT / pixels.shape[0])
    return Picture(encoded, pixels.shape[1] * scale, pixels.shape[0] * scale)


def _footer(canvas: Canvas, document: Any, words: Words) -> None:
    canvas.saveState()
    canvas.setFillColor(_AMBER)
    canvas.rect(0, 0, A4[0], _FOOTER, stroke=0, fill=1)
    canvas.setFillColor(_INK)
    canvas.setFont("Helvetica-Bold", 11)
    canvas.drawCentredString(A4[0] / 2, _FOOTER / 2 - 4, _printable(words.statement))
    canvas.setFont("Helvetica", 8.5)
    canvas.drawRightString(A4[0] - _MARGIN / 2, _FOOTER / 2 - 3, words.page.format(number=document.page))
    canvas.restoreState()


def _text(words: str) -> str:
    return escape(_printable(words))


def _printable(words: str) -> str:
    """The words in what the standard fonts of PDF hold (Windows code page 1252)."""
    return "".join(letter if _has(letter) else plain(letter) for letter in words)


def _has(letter: str) -> bool:
    try:
        return bool(letter.encode("cp1252"))
    except UnicodeEncodeError:
        return False
