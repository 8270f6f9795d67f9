"""Coded concepts: a value, its coding scheme and its meaning (PS3.3 section 8, PS3.16)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """One coded concept, for example ``Code("12738006", "SCT", "Brain")``.

    ``scheme`` is the Coding Scheme Designator (PS3.16 section 8): ``SCT``, ``DCM``, ``UCUM``.
    """

    value: str
    scheme: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.meaning} ({self.value}, {self.scheme})"
