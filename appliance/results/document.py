"""The draft report as a document: an Encapsulated PDF (PS3.3 section A.45.1)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from appliance.domain.codes import Code
from appliance.domain.result import InferenceResult
from appliance.results.coded import concept
from appliance.results.context import ResultContext
from appliance.results.draft import Words, draft_of, words_of
from appliance.results.identity import carry_request, write_header
from appliance.results.pdf import render_pdf
from appliance.results.references import reference
from appliance.results.sources import SourceImages, text
from appliance.results.text import AI_STATEMENT, plain

ENCAPSULATED_PDF_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.104.1"

_DIAGNOSTIC_IMAGING_REPORT: Final = Code("18748-4", "LN", "Diagnostic imaging report")


def write_document(
    result: InferenceResult, sources: SourceImages, context: ResultContext, pictures: Sequence[NDArray[np.uint8]]
) -> Dataset:
    """Write the draft report of ``result``, in the language of ``context``.

    Parameters
    ----------
    pictures
        sRGB ``[row, column, 3]``: what is shown after the words.

    Returns
    -------
    Dataset
        With file meta information, Explicit VR Little Endian.

    Raises
    ------
    ResultError
        The sources are not those of the image.
    """
    sources.check_against(result.image)
    words = words_of(context.language)
    content = render_pdf(draft_of(result, sources, context.language), _facts(sources, context, words), pictures, words)
    document = Dataset()
    write_header(document, ENCAPSULATED_PDF_STORAGE, result, sources, context, "pdf")
    carry_request(document, sources)
    document.Laterality = None
    document.ConversionType = "WSD"
    document.AcquisitionDateTime = None
    document.BurnedInAnnotation = "YES"
    document.SourceInstanceSequence = [reference(*uids) for uids in sources.instances]
    document.DocumentTitle = plain(f"{AI_STATEMENT}: {result.title}", 1024)
    document.ConceptNameCodeSequence = [concept(_DIAGNOSTIC_IMAGING_REPORT)]
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocument = content if len(content) % 2 == 0 else content + b"\0"
    document.EncapsulatedDocumentLength = len(content)
    return document


def _facts(sources: SourceImages, context: ResultContext, words: Words) -> list[tuple[str, str]]:
    """Whose report it is: a sheet of paper must say so by itself."""
    return [
        (words.labels["patient"], _name(sources.first)),
        (words.labels["identifier"], text(sources.first, "PatientID")),
        (words.labels["born"], _day(text(sources.first, "PatientBirthDate"), words)),
        (words.labels["accession"], text(sources.first, "AccessionNumber")),
        (words.labels["created"], f"{words.day(context.created_at)} {context.created_at:%H:%M}"),
    ]


def _name(dataset: Dataset) -> str:
    """The patient's name in its alphabetic group (PS3.5 section 6.2.1), family name first."""
    try:
        alphabetic = str(dataset.get("PatientName") or "").partition("=")[0]
    except (ValueError, LookupError):  # of a character set that there is not: the header of the object has it
        return ""
    family, *others = alphabetic.split("^")
    return ", ".join(part for part in (family.strip(), " ".join(others[:2]).strip()) if part)


def _day(date: str, words: Words) -> str:
    try:
        return words.day(datetime.strptime(date, "%Y%m%d"))
    except ValueError:
        return ""
