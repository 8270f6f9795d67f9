"""A RIS that takes procedure steps and answers as it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import ModalityPerformedProcedureStep


class FakeRis:
    """Answers as its script says, then with 0x0000; ``ABORT`` instead of an answer.

    Attributes
    ----------
    received
        Operation, SOP Instance UID and data set of each request, in order, answered or not.
    """

    ABORT = -1

    def __init__(self, script: Sequence[int] = (), error_id: int | None = None, port: int = 0) -> None:
        self._script, self._error_id = list(script), error_id
        self.received: list[tuple[str, str, Dataset]] = []
        self._entity = AE("RIS")
        self._entity.add_supported_context(ModalityPerformedProcedureStep)
        server = self._entity.start_server(
            ("127.0.0.1", port),
            block=False,
            evt_handlers=[(evt.EVT_N_CREATE, self._create), (evt.EVT_N_SET, self._set)],
        )
        assert server is not None
        self.port: int = server.server_address[1]

    def stop(self) -> None:
        self._entity.shutdown()

    def messages(self) -> list[tuple[str, str]]:
        return [(operation, uid) for operation, uid, _ in self.received]

    def _create(self, event: Any) -> tuple[Dataset, None]:
        return self._answer(event, "N-CREATE", event.request.AffectedSOPInstanceUID, event.attribute_list)

    def _set(self, event: Any) -> tuple[Dataset, None]:
        return self._answer(event, "N-SET", event.request.RequestedSOPInstanceUID, event.modification_list)

    def _answer(self, event: Any, operation: str, uid: object, data_set: Dataset) -> tuple[Dataset, None]:
        self.received.append((operation, str(uid), data_set))
        status = self._script.pop(0) if self._script else 0x0000
        answer = Dataset()
        if status == self.ABORT:
            event.assoc.abort()
            status = 0x0110
        answer.Status = status
        if self._error_id is not None:
            answer.ErrorID = self._error_id
        return answer, None
