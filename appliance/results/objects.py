"""All forms of a result on disk, each read back and checked before anybody is told that it exists."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from appliance.domain.forms import FORMS, USUAL_FORMS, Form
from appliance.domain.result import InferenceResult
from appliance.errors import ResultError
from appliance.results.check import parsed
from appliance.results.context import ResultContext
from appliance.results.encoding import encoded_file
from appliance.results.forms import WRITERS, Drafts
from appliance.results.sources import SourceImages


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One DICOM object as it lies on disk.

    ``bytes`` is the size of the file, ``sha256`` the hash of all of it (lower-case hexadecimal).
    """

    kind: Form
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    path: Path
    bytes: int
    sha256: str
    transfer_syntax_uid: str


def write_results(
    result: InferenceResult,
    sources: SourceImages,
    context: ResultContext,
    folder: Path,
    forms: Collection[Form] = USUAL_FORMS,
) -> list[ResultObject]:
    """Write ``result`` in every one of ``forms`` to ``folder``.

    Parameters
    ----------
    folder
        Exists. Files are named after form and number (``sr-1.dcm``), so a repeat overwrites its own; each is
        flushed to disk, the folder is not: whoever renames it into place does that.
    forms
        Without ``seg`` the report refers to the source images. A result without segments gives no segmentation, and
        no presentation state; one of a series none of whose images matters more than others no key objects.

    Returns
    -------
    list[ResultObject]
        In the order in which they should leave (``FORMS``).

    Raises
    ------
    ResultError
        An object could not be made, or does not read back as what was meant. Nothing is returned then, files that were
        already written stay in ``folder``.
    OSError
        The disk is full, or failed.
    """
    with warnings.catch_warnings():
        # pydicom and highdicom warn of values of the source that break their VR, and repeat them: they are common, may
        # identify the patient, and are carried over as they are.
        warnings.simplefilter("ignore")
        return _write_forms(Drafts(result, sources, context, frozenset(forms)), folder)


def _write_forms(drafts: Drafts, folder: Path) -> list[ResultObject]:
    written: list[ResultObject] = []
    for form in FORMS:
        if form in drafts.forms:
            make, check = WRITERS[form]
            for number, dataset in enumerate(make(drafts), start=1):
                item, content = _write(dataset, form, number, folder)
                check(content, dataset, drafts.result)
                written.append(item)
    return written


def _write(dataset: Dataset, kind: Form, number: int, folder: Path) -> tuple[ResultObject, Dataset]:
    """Write one file and flush it to disk; return what it is, and what a reader finds in it."""
    path = folder / f"{kind}-{number}.dcm"
    try:
        content = encoded_file(dataset)
    except (ValueError, TypeError, AttributeError, NotImplementedError, OSError) as error:
        # pydicom's words may quote the value of an attribute, so only the kind of error is kept, no cause.
        raise ResultError(f"the {kind} object cannot be encoded", found=type(error).__name__) from None
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    stored = path.read_bytes()
    item = ResultObject(
        kind=kind,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        path=path,
        bytes=len(stored),
        sha256=hashlib.sha256(stored).hexdigest(),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
    )
    return item, parsed(stored, item.sop_class_uid, item.sop_instance_uid)
