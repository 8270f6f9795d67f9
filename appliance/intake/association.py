"""One open association: its bounds, the data set that is arriving on it, and what it has brought so far.

This is the seam between pynetdicom and the spool: the library keeps the state machine, negotiation and DIMSE; here
its reads are bounded, and the data sets of C-STORE requests go to files as they arrive: most in the fast lane, those
that it leaves to the library here.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.fsm import TRANSITION_TABLE
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext

from appliance.config.settings import DicomNode
from appliance.domain.uids import is_valid_uid
from appliance.errors import RejectedInput
from appliance.intake.fast_lane import LaneSocket, Storing
from appliance.intake.file_meta import encode_head
from appliance.intake.incoming_file import IncomingFile
from appliance.intake.pace import Pace
from appliance.intake.peer_stream import PeerStream
from appliance.intake.shares import SeriesShares
from appliance.intake.store import Acceptance, InstanceStore
from appliance.intake.store_messages import StoreRequest

_log = logging.getLogger(__name__)

SOURCE: Final = "dicom"
"""How instances came that came over an association, in the journal and the metrics."""

_REQUIRED: Final = ("MessageID", "AffectedSOPClassUID", "AffectedSOPInstanceUID", "Priority")
"""Of a C-STORE request (PS3.7 table 9.3-1)."""
_MAX_COMMAND_BYTES: Final = 64 * 1024
_MAX_OTHER_DATA_BYTES: Final = 8 * 1024 * 1024
"""For data sets that are not stored, which the library collects in memory."""
_MAX_WAITING_MESSAGES: Final = 16
"""Requests that a peer may send ahead without waiting for answers; asynchronous operations are not negotiated."""

_REST_S: Final = 0.1
"""How late the library may notice, while the fast lane is at work, that an association has to end."""

_LOCAL_EVENTS: Final = frozenset({"Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"})
"""What the association's thread asks of the reader thread: to accept, reject, send, release, abort."""

StoreTake = Callable[["OpenAssociation", int, StoreRequest, IncomingFile, float], tuple[int, str]]
"""Takes in a data set that came in the fast lane; see ``fast_lane.Take``."""


class OpenAssociation:
    """What is known about one association, from the connection to its end.

    Attributes
    ----------
    established
        Whether it was accepted, so that it counts as open.
    leaving
        Whether it was told to go, and has not gone yet.
    released
        Whether it ended in good order.
    outcomes
        How many instances, by outcome or by the reason of their refusal.
    series
        Its share of each series.
    """

    def __init__(self, association: Association, store: InstanceStore, node: DicomNode, take: StoreTake) -> None:
        self.association = association
        self.established = False
        self.leaving = False
        self.released = False
        self.started = time.monotonic()
        self.outcomes: Counter[str] = Counter()
        self.series = SeriesShares()
        self._store = store
        self._incoming: IncomingFile | None = None
        # The library drops a request that lacks something without a word, and at the end those that still wait.
        self._handed_on: deque[IncomingFile] = deque(maxlen=_MAX_WAITING_MESSAGES + 2)
        self._command_bytes = 0
        self._other_bytes = 0
        self._pace = Pace(node.min_bytes_per_s, node.network_timeout_s)
        self._progress = self._pace.start()
        self._take = take
        self._lane: LaneSocket | None = None
        self._connection: socket.socket | None = None
        self._replace_socket(node)
        self._receive_primitive = association.dimse.receive_primitive
        self._next_message = association.dimse.get_msg
        # The library calls this for each P-DATA primitive, on its reader thread.
        association.dimse.receive_primitive = self._receive  # type: ignore[method-assign]
        # And this on the association's thread, a thousand times a second.
        association.dimse.get_msg = self._message  # type: ignore[method-assign]
        self._act = association.dul.state_machine.do_action
        association.dul.state_machine.do_action = self._act_in_time  # type: ignore[method-assign]

    def add(self, acceptance: Acceptance) -> None:
        """Note an instance that was taken in."""
        self.outcomes[acceptance.outcome] += 1
        self.series.add(acceptance)

    def disconnect(self) -> None:
        """Close the connection at once, from any thread; the library sees a peer that has gone."""
        self.leaving = True
        wrapper = self.association.dul.socket
        connection = wrapper.socket if wrapper is not None else None
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has gone already

    def connection_closed(self) -> None:
        """Let the association's thread end now if it still waits for a request: the library would time it out."""
        if self.association.requestor.primitive is None:
            self.association.dul.to_user_queue.put(None)

    def close(self) -> None:
        """Close the connection for good, where the library's reader thread has ended without doing so."""
        if self._connection is not None:
            self._connection.close()

    def end(self) -> None:
        """Remove what was left half-received; called once the library's threads have ended."""
        if self._incoming is not None:
            self._incoming.discard()
        for incoming in self._handed_on:
            incoming.discard()  # of a request that was never answered, if it is still there

    def _replace_socket(self, node: DicomNode) -> None:
        wrapper = self.association.dul.socket
        connection = wrapper.socket if wrapper is not None else None
        if wrapper is None or connection is None:
            return
        self._connection = connection
        # An answer is one small segment; with Nagle's algorithm it could wait for the peer's delayed acknowledgement.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        storing = Storing(self._open_file, self._is_overrun, partial(self._take, self))
        stream = PeerStream(connection, node.pdu_timeout_s)
        stream.until = self.started + node.negotiation_timeout_s
        self._lane = LaneSocket(wrapper, self.association, stream, storing)
        self.association.dul.socket = self._lane  # type: ignore[assignment]

    def _message(self, block: bool = False) -> Any:
        """The library's next message; its thread rests while the fast lane is at work, and while nothing comes."""
        if self._lane is not None and not block:
            self._lane.idle.wait(_REST_S)
            self._lane.rest()
        return self._next_message(block=block)

    def _act_in_time(self, event: str) -> None:
        """Let the library's state machine act, unless on what the association's thread wants too late.

        It does not know yet that the peer has been aborted or has gone; there is no such arrow in PS3.8 table 9-10, and
        the reader thread would end with an error in the middle of things.
        """
        provider = self.association.dul
        if event in _LOCAL_EVENTS and (event, provider.state_machine.current_state) not in TRANSITION_TABLE:
            if not provider.to_provider_queue.empty():  # it may have been announced twice
                provider.to_provider_queue.get_nowait()
            return
        try:
            self._act(event)
        except Exception as error:  # noqa: BLE001 - whatever hostile bytes raise in the library, as for its reads
            _log.debug("a peer's message cannot be acted on", exc_info=error)
            if provider.socket is not None:
                provider.socket.close()
            provider.kill_dul()

    def _open_file(self, context_id: int, request: StoreRequest) -> IncomingFile | None:
        return self._new_incoming(context_id, request.sop_class_uid, request.sop_instance_uid)

    def _receive(self, primitive: P_DATA) -> None:
        """Hand on the fragments of a P-DATA primitive one by one, each C-STORE data set into a file of its own.

        The library can write to a file by itself (``STORE_RECV_CHUNKED_DATASET``), but only for the whole process at
        once, into the system's temporary folder and without any bound.
        """
        try:
            valid = all(
                self._receive_fragment(context_id, fragment)
                for context_id, fragment in primitive.presentation_data_value_list
            )
        except Exception as error:  # noqa: BLE001 - whatever hostile bytes raise in the library, its thread would end
            _log.debug("a peer's message cannot be read", exc_info=error)
            valid = False
        if not valid:
            # As for any invalid PDU: A-P-ABORT (PS3.8 table 9-10, Evt19).
            self.association.dul.event_queue.put("Evt19")

    def _receive_fragment(self, context_id: int, fragment: bytes) -> bool:
        if not fragment or not self._within_bounds(context_id, fragment):
            return False
        single = P_DATA()
        single.presentation_data_value_list = [[context_id, fragment]]  # type: ignore[list-item]
        self._receive_primitive(single)
        if fragment[0] & 2 and not fragment[0] & 1:
            if self._incoming is not None:
                self._handed_on.append(self._incoming)  # it is whole and belongs to the request now
            self._incoming = None
            self._other_bytes = 0
        return True

    def _within_bounds(self, context_id: int, fragment: bytes) -> bool:
        """Prepare the library for a fragment; ``False`` when the association must not go on."""
        dimse = self.association.dimse
        if fragment[0] & 1 and dimse.message is None:
            self._command_bytes, self._progress = 0, self._pace.start()
        if self._progress.too_slow(self._command_bytes + self._other_bytes) and self._incoming is None:
            return False
        if fragment[0] & 1:
            self._command_bytes += len(fragment)
            return self._command_bytes <= _MAX_COMMAND_BYTES and dimse.msg_queue.qsize() < _MAX_WAITING_MESSAGES
        message = dimse.message
        if message is None:
            return False  # a data set without a command
        if not isinstance(message, C_STORE_RQ):
            self._other_bytes += len(fragment)
            return self._other_bytes <= _MAX_OTHER_DATA_BYTES
        if self._incoming is None:
            if any(keyword not in message.command_set for keyword in _REQUIRED):
                # The library would pass over it in silence, and its sender wait for an answer that never comes.
                self._store.count_refusal(
                    SOURCE,
                    RejectedInput("bad-request", "the request lacks an element", mend="The sender has to be mended"),
                )
                self.outcomes["bad-request"] += 1
                return False
            incoming = self._new_incoming(
                context_id,
                str(message.command_set.get("AffectedSOPClassUID", "")),
                str(message.command_set.get("AffectedSOPInstanceUID", "")),
            )
            if incoming is None:
                return False
            self._incoming = incoming
            message._data_set_file = incoming  # type: ignore[assignment]
        return not self._is_overrun(self._incoming)

    def _is_overrun(self, incoming: IncomingFile) -> bool:
        """Say whether it is larger or slower than an instance may be, so that the rest is not waited for."""
        if incoming.overrun and isinstance(incoming.failure, RejectedInput):
            self._store.count_refusal(SOURCE, incoming.failure)
            self.outcomes[incoming.failure.reason] += 1
        return incoming.overrun

    def _new_incoming(self, context_id: int, sop_class_uid: str, sop_instance_uid: str) -> IncomingFile | None:
        context = self.context(context_id)
        if context is None:
            return None
        if is_valid_uid(sop_class_uid) and is_valid_uid(sop_instance_uid):
            head = encode_head(sop_class_uid, sop_instance_uid, str(context.transfer_syntax[0]))
            return IncomingFile(self._store.spool, SOURCE, head, self._store.max_instance_bytes, self._pace)
        incoming = IncomingFile(self._store.spool, SOURCE, b"", self._store.max_instance_bytes, self._pace)
        incoming.fail(RejectedInput("bad-uid", "a UID of the request is not a UID", mend="The sender has to be mended"))
        return incoming

    def context(self, context_id: int) -> PresentationContext | None:
        """The accepted presentation context of this number."""
        return next((found for found in self.association.accepted_contexts if found.context_id == context_id), None)
