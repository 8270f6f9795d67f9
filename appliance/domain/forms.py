"""The forms that one result takes on its way to a PACS."""

from __future__ import annotations

from typing import Final, Literal

Form = Literal["sr", "ko", "sc", "pdf", "gsps", "seg"]
"""Structured report, key object selection, secondary captures, draft report, presentation state, segmentation."""

FORMS: Final[tuple[Form, ...]] = ("sr", "ko", "sc", "pdf", "gsps", "seg")
"""All forms, in the order in which they should leave: the numbers first, the large object last."""

USUAL_FORMS: Final[tuple[Form, ...]] = ("sr", "seg", "sc")
"""What a destination gets unless it asks for others: what nearly every PACS takes."""
