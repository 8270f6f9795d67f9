"""Storage commitment (PS3.4 annex J): what a report says of each instance that a peer asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

# Failure Reason (0008,1197), PS3.3 section C.14.1.1.
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119

_ALL_COMMITTED: Final = 1
_FAILURES_EXIST: Final = 2


@dataclass(frozen=True, slots=True)
class CommitmentReference:
    """One instance of a request; ``failure`` is the Failure Reason (0008,1197), ``None``: committed."""

    sop_class_uid: str
    sop_instance_uid: str
    failure: int | None = None


def event_report(transaction_uid: str, references: Sequence[CommitmentReference]) -> tuple[int, Dataset]:
    """Return Event Type ID and Event Information of the N-EVENT-REPORT (PS3.4 table J.3-2)."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    committed = [_item(reference) for reference in references if reference.failure is None]
    failed = [_item(reference) for reference in references if reference.failure is not None]
    if committed:
        information.ReferencedSOPSequence = DicomSequence(committed)
    if failed:
        information.FailedSOPSequence = DicomSequence(failed)
    return _FAILURES_EXIST if failed else _ALL_COMMITTED, information


def _item(reference: CommitmentReference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if reference.failure is not None:
        item.FailureReason = reference.failure
    return item
