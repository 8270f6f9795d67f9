"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is: ``wrong`` needs somebody, ``note`` needs nobody, ``mended`` was wrong."""

    WELL = "well"
    NOTE = "note"
    MENDED = "mended"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table; ``mend`` is empty where nothing is to be done."""

    verdict: Verdict
    what: str
    found: str
    expected: str = ""
    mend: str = ""


def well(what: str, found: str) -> Finding:
    """All is as it should be."""
    return Finding(Verdict.WELL, what, found)
