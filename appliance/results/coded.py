"""From the domain's codes to highdicom's and to items of code sequences (PS3.3 section 8)."""

from __future__ import annotations

from highdicom.sr import CodedConcept

from appliance.domain.codes import Code
from appliance.results.text import plain


def concept(code: Code) -> CodedConcept:
    """``code`` as highdicom wants it; its meaning in ASCII and at most 64 characters."""
    return CodedConcept(code.value, code.scheme, plain(code.meaning, 64))
