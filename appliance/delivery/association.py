"""A storage association as its requestor (PS3.8 section 9.3, PS3.7 section 9.1.1).

pynetdicom's ``Association`` class is not used, only its PDUs: its two polling threads cost a few milliseconds per
object, it holds a whole object in memory as queued PDUs, and it waits for ever for a peer that stops in the middle
of a PDU. One thread and deadlines is all that a storage SCU needs.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Sequence

from appliance.delivery.connection import Connection
from appliance.delivery.pdus import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    COMMAND,
    LAST,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    Offer,
    Unintelligible,
    abort,
    acceptance,
    associate_request,
    presentation_data_values,
    rejection,
    release_request,
    release_response,
    store_request,
    store_status,
)

_ANSWERS = frozenset({ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT})

_LONGEST_PDU_BYTES = 65536
"""No PDU that a storage SCU receives is longer; a longer one is noise, and not a reason to set memory aside."""
_LONGEST_FRAGMENT_BYTES = 131072
"""Where the peer takes PDUs of any length."""
_SEND_BYTES = 32768
"""PDUs are handed to the kernel together from this size on: many peers take 16 KiB PDUs only. Not more, as the peer is
the slower one, and can begin with what it has."""
_LONGEST_RELEASE_S = 2.0


class AssociationRejected(ConnectionError):
    """The peer does not want the association; the text gives its reason (PS3.8 section 9.3.4)."""


class AssociationAborted(ConnectionError):
    """The peer sent A-ABORT (PS3.8 section 9.3.8)."""


class AssociationReleased(ConnectionError):
    """The peer asked for the end of the association instead of answering (PS3.8 section 9.3.6)."""


class StorageAssociation:
    """An open association, from construction to ``release`` or ``drop``.

    Parameters
    ----------
    connection
        Connected; closed by this object in the end, and when the constructor raises.
    offers
        1 to 128 presentation contexts.
    timeout_s
        Longest wait for any answer, and for the peer to take in one write.

    Attributes
    ----------
    accepted
        What the peer takes, each with its presentation context id (PS3.8 section 9.3.2.2).
    answered
        How many C-STORE requests the peer has answered.

    Raises
    ------
    OSError
        From the constructor as from ``store``: ``AssociationRejected``, ``AssociationAborted``, ``Unintelligible``,
        ``AssociationReleased``, ``TimeoutError``, or what the network reports.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        calling_ae_title: str,
        called_ae_title: str,
        offers: Sequence[Offer],
        timeout_s: float,
    ) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._message_id = 0
        self.accepted: dict[Offer, int] = {}
        self.answered = 0
        self._fragment_bytes = _LONGEST_FRAGMENT_BYTES
        try:
            connection.send(associate_request(calling_ae_title, called_ae_title, offers), timeout_s)
            kind, body = self._receive_pdu(time.monotonic() + timeout_s)
            if kind == ASSOCIATE_RJ:
                raise AssociationRejected(rejection(body))
            if kind != ASSOCIATE_AC:
                raise Unintelligible("the association request was not answered but by another PDU")
            self._take_acceptance(body, offers)
        except BaseException:
            connection.close()
            raise

    def store(
        self, context_id: int, sop_class_uid: str, sop_instance_uid: str, data_set: Iterable[bytes | memoryview]
    ) -> int:
        """Send one C-STORE request and return the status of its answer.

        Parameters
        ----------
        data_set
            The encoded data set in pieces of any size; what iterating raises passes through, and leaves the
            association in the middle of a message: ``drop`` it then, as after ``OSError``.
        """
        self._message_id = self._message_id % 0xFFFF + 1
        pdus = bytearray()
        for header, fragment in self._fragments(sop_class_uid, sop_instance_uid, data_set):
            # P-DATA-TF with one presentation data value (PS3.8 section 9.3.5).
            pdus += struct.pack(">BxLLBB", P_DATA, len(fragment) + 6, len(fragment) + 2, context_id, header)
            pdus += fragment
            if len(pdus) >= _SEND_BYTES:
                self._connection.send(pdus, self._timeout_s)
                pdus.clear()
        if pdus:
            self._connection.send(pdus, self._timeout_s)
        status = self._receive_status()
        self.answered += 1
        return status

    def is_usable(self) -> bool:
        """Say whether the peer has kept the association open: a peer that speaks up unasked wants it ended."""
        try:
            return not self._connection.has_news()
        except OSError:
            return False

    def release(self) -> None:
        """End the association in good order (PS3.8 section 9.3.6), or without where the peer does not play along."""
        try:
            if self._connection.has_news():
                kind, _ = self._receive_pdu(time.monotonic() + _LONGEST_RELEASE_S)
                if kind == RELEASE_RQ:
                    self._connection.send(release_response(), _LONGEST_RELEASE_S)
            else:
                self._connection.send(release_request(), _LONGEST_RELEASE_S)
                self._receive_pdu(time.monotonic() + _LONGEST_RELEASE_S)
        except OSError:
            pass  # it ends either way
        self._connection.close()

    def drop(self) -> None:
        """End the association at once, after a failure: with A-ABORT if the peer can still hear it."""
        try:
            self._connection.send(abort(), 0.1)
        except OSError:
            pass
        self._connection.close()

    def _fragments(
        self, sop_class_uid: str, sop_instance_uid: str, data_set: Iterable[bytes | memoryview]
    ) -> Iterator[tuple[int, bytes | memoryview]]:
        """Message control header and content of each fragment of the message (PS3.8 annex E)."""
        command = store_request(self._message_id, sop_class_uid, sop_instance_uid)
        yield COMMAND | LAST, command
        last: memoryview | None = None
        for piece in data_set:
            view = memoryview(piece)
            for start in range(0, len(view), self._fragment_bytes):
                if last is not None:
                    yield 0, last
                last = view[start : start + self._fragment_bytes]
        yield LAST, last if last is not None else b""

    def _receive_status(self) -> int:
        """Receive a C-STORE response (PS3.7 section 9.3.1.2)."""
        deadline = time.monotonic() + self._timeout_s
        command = bytearray()
        while True:
            kind, body = self._receive_pdu(deadline)
            if kind == RELEASE_RQ:
                raise AssociationReleased("the association was ended by the other side")
            if kind != P_DATA:
                raise Unintelligible("the C-STORE request was not answered but by another PDU")
            if len(command) + len(body) > _LONGEST_PDU_BYTES:
                raise Unintelligible("the answer to the C-STORE request has no end")
            is_last = False
            for header, fragment in presentation_data_values(body):
                if not header & COMMAND:
                    raise Unintelligible("the answer to the C-STORE request is a data set")
                command += fragment
                is_last = bool(header & LAST)
            if is_last:
                return store_status(bytes(command), self._message_id)

    def _receive_pdu(self, deadline: float) -> tuple[int, bytes]:
        """Return type and content of the next PDU; A-ABORT raises."""
        kind, length = struct.unpack(">BxL", self._connection.receive(6, deadline))
        if kind not in _ANSWERS or length > _LONGEST_PDU_BYTES:
            raise Unintelligible(f"an answer that is not DICOM (PDU type 0x{kind:02X}, {length} bytes)")
        body = self._connection.receive(length, deadline)
        if kind == ABORT:
            raise AssociationAborted("the association was aborted by the other side")
        return kind, body

    def _take_acceptance(self, body: bytes, offers: Sequence[Offer]) -> None:
        results, peer_max_bytes = acceptance(body)
        for context_id, result, transfer_syntax_uid in results:
            index = (context_id - 1) // 2
            if result == 0 and 0 <= index < len(offers) and transfer_syntax_uid == offers[index].transfer_syntax_uid:
                self.accepted[offers[index]] = context_id
        # The length is of the PDU's content, so with the 6 bytes before the fragment (PS3.8 annex D.1); 0: any.
        if peer_max_bytes:
            self._fragment_bytes = max(1, min(self._fragment_bytes, peer_max_bytes - 6))
