"""An ``InferenceResult`` → result objects on disk, and what the journal keeps of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pydicom import Dataset

from appliance.domain.forms import USUAL_FORMS, Form
from appliance.domain.languages import Language
from appliance.domain.result import InferenceResult
from appliance.domain.states import Scope
from appliance.journal.records import ResultRow
from appliance.pipeline.summary import summary_of
from appliance.results.context import PriorReport, ResultContext
from appliance.results.objects import write_results
from appliance.results.sources import SourceImages

_SHADOW_NOTE = "Made for comparison only, by a version that does not serve (shadow)."


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a job succeeds with."""

    rows: list[ResultRow]
    summary: str


def encode(
    result: InferenceResult,
    datasets: Sequence[Dataset],
    folder: Path,
    *,
    model_key: str,
    scope: Scope,
    shadow: bool,
    revision: int,
    created_at: float,
    device_serial: str,
    predecessor: tuple[str, str] | None,
    path_of: Callable[[Path], str],
    forms: Collection[Form] = USUAL_FORMS,
    language: Language = "en",
) -> Encoded:
    """Write, read back and check all result objects.

    Parameters
    ----------
    shadow
        Whether the result is made for comparison only; it says so then.
    created_at
        When the job was made, in seconds since 1970: a repeat of the job then gives the same bytes.
    predecessor
        SOP and Series Instance UID of the SR that this one replaces, if any.
    forms
        Which objects are written.
    language
        Of the draft report.
    path_of
        Turns a path into the one that the journal keeps.

    Raises
    ------
    ResultError
        An object could not be made, or did not read back as it was written.
    OSError
        The disk is full, or failed.
    """
    if shadow:
        result = replace(result, notes=(*result.notes, _SHADOW_NOTE))
    context = ResultContext(
        model_key=model_key,
        revision=revision,
        created_at=datetime.fromtimestamp(created_at).astimezone(),
        device_serial=device_serial,
        scope=scope,
        shadow=shadow,
        language=language,
        predecessors=() if predecessor is None else (PriorReport(*predecessor),),
    )
    objects = write_results(result, SourceImages(datasets), context, folder, forms)
    rows = [
        ResultRow(
            kind=found.kind,
            sop_class_uid=found.sop_class_uid,
            sop_instance_uid=found.sop_instance_uid,
            series_instance_uid=found.series_instance_uid,
            transfer_syntax_uid=found.transfer_syntax_uid,
            path=path_of(found.path),
            bytes=found.bytes,
            sha256=found.sha256,
        )
        for found in objects
    ]
    return Encoded(rows, json.dumps(summary_of(result)))
