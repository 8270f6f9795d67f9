"""The languages that draft reports are written in."""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "de", "fr"]
"""Two-letter codes of ISO 639-1."""
