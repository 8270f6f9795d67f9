"""N-EVENT-REPORT requests on an association that the peer has opened (PS3.7 section 10.1.1).

The library's own ``send_n_event_report`` takes the next message that comes for the answer. But a peer may well send a
request of its own in that moment, a further N-ACTION, say, as neither side knows what the other is about to send. So
here the request goes out on the association's thread, between two messages, and its answer is picked out of all others.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext

_LARGEST_MESSAGE_ID: Final = 0xFFFF
_NO_STATUS: Final = 0x0110
"""Processing failure: an answer without a status says nothing better."""

Answered = Callable[[int], None]
"""Called on the association's thread with the status of the answer."""


@dataclass(frozen=True, slots=True)
class EventReport:
    """What is sent; see ``domain.commitment.event_report``."""

    sop_class_uid: str
    sop_instance_uid: str
    event_type: int
    information: Dataset


class EventReports:
    """Sends reports on one association, one after the other: asynchronous operations are not negotiated."""

    def __init__(self, association: Association) -> None:
        self._association = association
        self._waiting: queue.SimpleQueue[tuple[PresentationContext, EventReport, Answered]] = queue.SimpleQueue()
        self._answered: Answered | None = None
        self._message_id = 0
        self._next_message = association.dimse.get_msg
        # The library calls this on the association's thread, a thousand times a second when there is nothing to do.
        association.dimse.get_msg = self._message  # type: ignore[method-assign]

    @property
    def is_open(self) -> bool:
        """Whether the association is; what was not answered once it no longer is will never be."""
        return self._association.is_established and self._association.is_alive()

    def send(self, context: PresentationContext, report: EventReport, answered: Answered) -> None:
        """Send a report in an accepted context as soon as the association's thread can; from any thread."""
        self._waiting.put((context, report, answered))

    def _message(self, block: bool = False) -> Any:
        context_id, message = self._next_message(block=block)
        if isinstance(message, N_EVENT_REPORT) and message.MessageIDBeingRespondedTo is not None:
            self._take_answer(message)
            return None, None
        if message is None and self._answered is None and not self._waiting.empty():
            self._send(*self._waiting.get())
        return context_id, message

    def _take_answer(self, message: N_EVENT_REPORT) -> None:
        answered = self._answered
        if answered is not None and message.MessageIDBeingRespondedTo == self._message_id:
            self._answered = None
            answered(int(message.Status) if message.Status is not None else _NO_STATUS)

    def _send(self, context: PresentationContext, report: EventReport, answered: Answered) -> None:
        syntax = context.transfer_syntax[0]
        encoded = encode(report.information, syntax.is_implicit_VR, syntax.is_little_endian)
        assert encoded is not None and context.context_id is not None  # it consists of UIDs and numbers
        self._message_id = self._message_id % _LARGEST_MESSAGE_ID + 1
        request = N_EVENT_REPORT()
        request.MessageID = self._message_id
        request.AffectedSOPClassUID = UID(report.sop_class_uid)
        request.AffectedSOPInstanceUID = UID(report.sop_instance_uid)
        request.EventTypeID = report.event_type
        request.EventInformation = BytesIO(encoded)
        self._answered = answered
        self._association.dimse.send_msg(request, context.context_id)
