"""What a Modality Performed Procedure Step may become by N-CREATE and N-SET (PS3.4 annex F.7.2, table F.7.2-1).

Strict where a wrong step would harm: its states, its identity, and what ends it. Lenient where modalities are known to
differ from the table: attributes of type 2 may be absent, unknown ones are kept, an N-SET may repeat what it may not
change, and a step that is discontinued need not have a series.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from appliance.domain.states import ProcedureStepState
from appliance.domain.uids import is_valid_uid

NO_SUCH_OBJECT: Final = 0x0112
DUPLICATE_SOP_INSTANCE: Final = 0x0111
INVALID_ATTRIBUTE_VALUE: Final = 0x0106
PROCESSING_FAILURE: Final = 0x0110
INVALID_SOP_INSTANCE: Final = 0x0117
NO_SUCH_SOP_CLASS: Final = 0x0118
MISSING_ATTRIBUTE: Final = 0x0120
MISSING_ATTRIBUTE_VALUE: Final = 0x0121

NO_LONGER_UPDATED: Final = 0xA710
"""Error ID (0000,0903) beside ``PROCESSING_FAILURE``: the step has ended (PS3.4 section F.7.2.2.4)."""

_REQUIRED: Final = (
    "ScheduledStepAttributesSequence",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "PerformedProcedureStepStatus",
    "Modality",
)
"""Of type 1 at N-CREATE."""

_REQUIRED_AT_END: Final = ("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime")

_FIXED: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "Modality",
)
"""Not to be changed by N-SET; nor is the Scheduled Step Attributes Sequence, which is kept as it was created."""

_STATE_OF: Final = {state.value.upper(): state for state in ProcedureStepState}


class StepRefused(Exception):
    """A request that is answered by a failure: its status, Error ID (``None``: there is none) and Error Comment."""

    def __init__(self, status: int, comment: str, error_id: int | None = None) -> None:
        super().__init__(comment)
        self.status = status
        self.comment = comment
        self.error_id = error_id


def check_new(step: Dataset) -> None:
    """Check the attributes of an N-CREATE.

    Raises
    ------
    StepRefused
        An attribute is missing, empty, or has a value that it cannot have when a step begins.
    """
    for keyword in _REQUIRED:
        _require(step, keyword)
    for item in step.ScheduledStepAttributesSequence:
        _require(item, "StudyInstanceUID")
    if state_of(step) is not ProcedureStepState.IN_PROGRESS:
        raise StepRefused(INVALID_ATTRIBUTE_VALUE, "a step begins with the status IN PROGRESS")


def changed(step: Dataset, modification: Dataset) -> Dataset:
    """Return the step as an N-SET makes it; neither argument is changed.

    Raises
    ------
    StepRefused
        The modification changes what is fixed, has a status that does not exist, or ends the step without what an end
        requires (table F.7.2-1, *requirement type final state*).
    """
    result = Dataset()
    result.update(step)
    for keyword in _FIXED:
        if keyword in modification and keyword in step and modification[keyword].value != step[keyword].value:
            raise StepRefused(INVALID_ATTRIBUTE_VALUE, f"{_name(keyword)} must not be changed")
    _share_a_character_set(result, modification)
    for element in modification:
        if element.keyword not in ("ScheduledStepAttributesSequence", "SpecificCharacterSet"):
            result[element.tag] = element
    state = state_of(result)
    if state is not ProcedureStepState.IN_PROGRESS:
        for keyword in _REQUIRED_AT_END:
            _require(result, keyword)
    if state is ProcedureStepState.COMPLETED:
        _require(result, "PerformedSeriesSequence")
    for item in _items(result, "PerformedSeriesSequence"):
        _require(item, "SeriesInstanceUID")
    return result


def state_of(step: Dataset) -> ProcedureStepState:
    """Return its Performed Procedure Step Status (0040,0252).

    Raises
    ------
    StepRefused
        It is none of IN PROGRESS, COMPLETED and DISCONTINUED.
    """
    state = _STATE_OF.get(str(step.get("PerformedProcedureStepStatus", "")))
    if state is None:
        raise StepRefused(INVALID_ATTRIBUTE_VALUE, "the status of the step does not exist")
    return state


def listed_images(step: Dataset) -> list[tuple[str, str]]:
    """Series and SOP Instance UID of each image in the Performed Series Sequence (0040,0340).

    What is no image (dose reports, presentation states) may go elsewhere, and is not waited for.
    """
    return [
        (str(series.SeriesInstanceUID), uid)
        for series in _items(step, "PerformedSeriesSequence")
        for image in _items(series, "ReferencedImageSequence")
        if is_valid_uid(uid := str(image.get("ReferencedSOPInstanceUID", "")))
    ]


def _share_a_character_set(step: Dataset, modification: Dataset) -> None:
    """Let the step be written in Unicode where the modification comes in other characters (PS3.4 section F.7.2.2.3)."""
    own, other = (dataset.get("SpecificCharacterSet", "") for dataset in (step, modification))
    if other and other != own:
        step.decode()
        modification.decode()
        step.SpecificCharacterSet = "ISO_IR 192"


def _items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    value = dataset.get(keyword)
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _require(dataset: Dataset, keyword: str) -> None:
    if keyword not in dataset:
        raise StepRefused(MISSING_ATTRIBUTE, f"{_name(keyword)} is missing")
    value = dataset[keyword].value
    if value is None or (hasattr(value, "__len__") and not len(value)):
        raise StepRefused(MISSING_ATTRIBUTE_VALUE, f"{_name(keyword)} is empty")
    if keyword.endswith("InstanceUID") and not is_valid_uid(str(value)):
        raise StepRefused(INVALID_ATTRIBUTE_VALUE, f"{_name(keyword)} is not a UID")


def _name(keyword: str) -> str:
    tag = BaseTag(tag_for_keyword(keyword) or 0)
    return f"{keyword} ({tag.group:04X},{tag.element:04X})"
