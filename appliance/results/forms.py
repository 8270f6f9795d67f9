"""The table of forms: how each is made of a result, and how it is checked once it has been written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from appliance.domain.forms import Form
from appliance.domain.result import InferenceResult
from appliance.results.capture import write_captures
from appliance.results.check import (
    check_capture,
    check_document,
    check_key_objects,
    check_presentation,
    check_report,
    check_segmentation,
)
from appliance.results.context import ResultContext
from appliance.results.document import write_document
from appliance.results.key_objects import write_key_objects
from appliance.results.presentation import write_presentations
from appliance.results.report import write_report
from appliance.results.segmentation import write_segmentation
from appliance.results.sources import SourceImages


class Drafts:
    """The objects of one result before they are written: each is made once, as others may refer to it.

    Parameters
    ----------
    forms
        Those that will be written: nothing refers to any other.
    """

    def __init__(
        self, result: InferenceResult, sources: SourceImages, context: ResultContext, forms: frozenset[Form]
    ) -> None:
        self.result = result
        self.sources = sources
        self.context = context
        self.forms = forms

    @cached_property
    def segmentations(self) -> list[Dataset]:
        if "seg" not in self.forms or not self.result.segments:
            return []
        return [write_segmentation(self.result, self.sources, self.context)]

    def reports(self) -> list[Dataset]:
        """The structured report, which refers to the segmentation."""
        return [write_report(self.result, self.sources, self.context, next(iter(self.segmentations), None))]

    @cached_property
    def captures(self) -> list[Dataset]:
        return write_captures(self.result, self.sources, self.context)

    def documents(self) -> list[Dataset]:
        """The draft report, with the pictures of the captures."""
        pictures = [
            np.frombuffer(capture.PixelData, np.uint8, capture.Rows * capture.Columns * 3).reshape(
                capture.Rows, capture.Columns, 3
            )
            for capture in self.captures
        ]
        return [write_document(self.result, self.sources, self.context, pictures)]

    def presentations(self) -> list[Dataset]:
        return write_presentations(self.result, self.sources, self.context)

    def key_objects(self) -> list[Dataset]:
        return write_key_objects(self.result, self.sources, self.context)


Make = Callable[[Drafts], list[Dataset]]
"""Returns the objects of a form, each with its file meta information."""
Check = Callable[[Dataset, Dataset, InferenceResult], None]
"""Called with the parsed file, the object that was meant, and the result; raises ``ResultError`` when they differ."""

WRITERS: Final[dict[Form, tuple[Make, Check]]] = {
    "sr": (Drafts.reports, lambda content, _, result: check_report(content, result)),
    "ko": (Drafts.key_objects, lambda content, meant, _: check_key_objects(content, meant)),
    "sc": (lambda drafts: drafts.captures, lambda content, meant, _: check_capture(content, meant)),
    "pdf": (Drafts.documents, lambda content, meant, _: check_document(content, meant)),
    "gsps": (Drafts.presentations, lambda content, meant, _: check_presentation(content, meant)),
    "seg": (lambda drafts: drafts.segmentations, lambda content, _, result: check_segmentation(content, result)),
}
