"""What a Storage Commitment request may be (N-ACTION, PS3.4 section J.3.2), checked before anything is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pydicom.dataset import Dataset
from pynetdicom.sop_class import StorageCommitmentPushModelInstance

from appliance.domain.commitment import CommitmentReference
from appliance.domain.uids import is_valid_uid

# PS3.7 section 10.1.4.1.10.
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
INVALID_ARGUMENT_VALUE: Final = 0x0115
NO_SUCH_SOP_CLASS: Final = 0x0118
NO_SUCH_ACTION: Final = 0x0123
RESOURCE_LIMITATION: Final = 0x0213

_REQUEST: Final = 1
"""Action Type ID (PS3.4 table J.3-1)."""


class CommitmentRefused(Exception):
    """The request is answered with ``status`` and a ``comment`` that names nobody."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.status = status
        self.comment = comment


def read_request(
    sop_instance_uid: object, action_type: object, information: Callable[[], Dataset], *, max_references: int
) -> tuple[str, list[CommitmentReference]]:
    """Return the Transaction UID and the instances that are asked about, each once.

    Parameters
    ----------
    information
        Gives the Action Information; may raise whatever the library does when it cannot be read.

    Raises
    ------
    CommitmentRefused
        It is no such request, is incomplete, or names more than ``max_references`` instances.
    """
    if str(sop_instance_uid) != StorageCommitmentPushModelInstance:
        raise CommitmentRefused(NO_SUCH_INSTANCE, "not the well-known instance of storage commitment")
    if action_type != _REQUEST:
        raise CommitmentRefused(NO_SUCH_ACTION, "Action Type ID is not 1")
    try:
        data_set = information()
        transaction_uid = _uid(data_set, "TransactionUID")
        items = list(data_set.get("ReferencedSOPSequence") or [])
        if not items:
            raise CommitmentRefused(INVALID_ARGUMENT_VALUE, "Referenced SOP Sequence is absent or empty")
        if len(items) > max_references:
            raise CommitmentRefused(RESOURCE_LIMITATION, f"more than {max_references} instances: ask in parts")
        references = [
            CommitmentReference(_uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID"))
            for item in items
        ]
    except CommitmentRefused:
        raise
    except Exception as error:
        # The library looks at values when they are asked for, and raises whatever it likes.
        raise CommitmentRefused(PROCESSING_FAILURE, "the Action Information cannot be read") from error
    return transaction_uid, list(dict.fromkeys(references))


def _uid(data_set: Dataset, keyword: str) -> str:
    value = data_set.get(keyword)
    if not isinstance(value, str) or not is_valid_uid(value):
        raise CommitmentRefused(INVALID_ARGUMENT_VALUE, f"{keyword} is absent or no UID")
    return str(value)
