"""A modality that asks for storage commitment, and takes the report on the same association or on a new one."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage, StorageCommitmentPushModel, StorageCommitmentPushModelInstance

Pair = tuple[str, str]
"""SOP Class and Instance UID."""


def pairs(images: Iterable[Dataset]) -> list[Pair]:
    """What identifies these images."""
    return [(image.SOPClassUID, image.SOPInstanceUID) for image in images]


def request(transaction_uid: str, instances: Sequence[Pair]) -> Dataset:
    """The Action Information of an N-ACTION."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = [_reference(*pair) for pair in instances]
    return information


class Modality:
    """Sends images, asks, and listens for reports as ``CT1``.

    Attributes
    ----------
    reports
        Transaction UID, Event Type ID, committed pairs, and Failure Reason of each failed SOP Instance UID.
    roles
        What was proposed (SCU, SCP) on each association that brought a report; ``None``: no role selection.
    """

    def __init__(self, script: Sequence[int] = (), port: int = 0) -> None:
        self._script = list(script)
        self._lock = threading.Lock()
        self.reports: list[tuple[str, int, set[Pair], dict[str, int]]] = []
        self.roles: list[tuple[bool, bool] | None] = []
        self._entity = AE("CT1")
        self._entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        server = self._entity.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._reported)]
        )
        assert server is not None
        self.port: int = server.server_address[1]

    def stop(self) -> None:
        """End it."""
        self._entity.shutdown()

    @contextmanager
    def association(self, port: int) -> Iterator[Association]:
        """An association for images and requests, which takes reports as well."""
        entity = AE("CT1")
        entity.add_requested_context(CTImageStorage)
        entity.add_requested_context(StorageCommitmentPushModel)
        association = entity.associate(
            "127.0.0.1", port, ae_title="APPLIANCE", evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._reported)]
        )
        assert association.is_established
        yield association
        if association.is_established:
            association.release()

    def _reported(self, event: Any) -> tuple[int, None]:
        information = event.event_information
        committed = {
            (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
            for item in information.get("ReferencedSOPSequence", [])
        }
        failed = {
            item.ReferencedSOPInstanceUID: item.FailureReason for item in information.get("FailedSOPSequence", [])
        }
        with self._lock:
            roles = event.assoc.requestor.role_selection
            role = roles.get(UID(StorageCommitmentPushModel)) if event.assoc.is_acceptor else None
            self.roles.append(None if role is None else (role.scu_role, role.scp_role))
            self.reports.append((information.TransactionUID, event.event_type, committed, failed))
            return (self._script.pop(0) if self._script else 0x0000), None


def ask(
    association: Association,
    information: Dataset | None,
    *,
    action_type: int = 1,
    instance: str = StorageCommitmentPushModelInstance,
) -> int:
    """Send an N-ACTION; return the status of its answer."""
    status, _ = association.send_n_action(information, action_type, StorageCommitmentPushModel, instance)
    code: int = status.Status
    return code


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item
