"""The words that every result object carries, and how text is made to fit the character set of the patient."""

from __future__ import annotations

from typing import Final
from unicodedata import combining, normalize

AI_STATEMENT: Final = "AI result, for research use, verify"
"""Burned into each capture, and written into each report and segmentation."""

_PLAIN: Final = str.maketrans(
    {
        # Some VRs forbid line breaks; other control characters make a whole report unreadable (PS3.5 section 6.2).
        **{chr(code): " " for code in (*range(32), 127)},
        "×": "x",
        "–": "-",
        "—": "-",
        "−": "-",
        "‑": "-",
        "µ": "u",
        "μ": "u",
        "²": "2",
        "³": "3",
        "°": " deg",
        "±": "+/-",
        "≤": "<=",
        "≥": ">=",
        "≈": "~",
        "→": "->",
        "·": "-",
        "…": "...",
        "’": "'",
        "‘": "'",
        "“": '"',
        "”": '"',
        "\u00a0": " ",
        # As one writes where there are no umlauts and ligatures.
        "ä": "ae",
        "ö": "oe",
        "ü": "ue",
        "Ä": "Ae",
        "Ö": "Oe",
        "Ü": "Ue",
        "ß": "ss",
        "œ": "oe",
        "æ": "ae",
        # A backslash separates values in most text VRs (PS3.5 section 6.2).
        "\\": "/",
    }
)


def plain(text: str, limit: int | None = None) -> str:
    """Return ``text`` in ASCII on one line, cut to ``limit`` characters.

    An object keeps the Specific Character Set of its sources so that the patient's name is carried over byte for
    byte. Our own words must then be writable in *any* of the character sets of PS3.3 section C.12.1.1.2; what they
    share is ASCII. Letters lose their accents.
    """
    ascii_text = text.translate(_PLAIN)
    if not ascii_text.isascii():
        decomposed = "".join(part for part in normalize("NFKD", ascii_text) if not combining(part))
        ascii_text = decomposed.encode("ascii", "replace").decode("ascii")
    return ascii_text if limit is None else ascii_text[:limit].rstrip()
