"""A storage association as its requestor (PS3.8 section 9.3, PS3.7 section 9.1.1).

pynetdicom encodes and decodes the PDUs and the command sets. Its ``Association`` class is not used: its two polling
threads cost a few milliseconds per object, it holds a whole object in memory as queued PDUs, and it waits for ever
for a peer that stops reading in the middle of a PDU. One thread and deadlines is all that a storage SCU needs.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, A_RELEASE_RP, A_RELEASE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    A_RELEASE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

from appliance.delivery.connection import Connection

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 annex A.2.1

_ASSOCIATE_AC, _ASSOCIATE_RJ, _P_DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = 2, 3, 4, 5, 6, 7
_PDU_TYPES = frozenset({_ASSOCIATE_AC, _ASSOCIATE_RJ, _P_DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT})

_OUR_MAX_PDU_BYTES = 16384
"""Only answers come in, of a hundred bytes."""
_LONGEST_PDU_BYTES = 65536
"""No PDU that a storage SCU receives is longer; a longer one is noise, and not a reason to set memory aside."""
_LONGEST_FRAGMENT_BYTES = 131072
"""Where the peer takes PDUs of any length."""
_SEND_BYTES = 262144
"""PDUs are handed to the kernel together up to this size: many peers take 16 KiB PDUs only."""
_COMMAND, _LAST = 0x01, 0x02  # message control header, PS3.8 annex E.2
_LONGEST_RELEASE_S = 2.0

C_STORE_RSP = 0x8001


class Unintelligible(ConnectionError):
    """The peer sent what is not DICOM, or not in its turn."""


class AssociationRejected(ConnectionError):
    """The peer does not want the association; the text gives its reason (PS3.8 section 9.3.4)."""


class AssociationAborted(ConnectionError):
    """The peer sent A-ABORT (PS3.8 section 9.3.8)."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One presentation context: one SOP class in one transfer syntax, so that the answer leaves no doubt."""

    sop_class_uid: str
    transfer_syntax_uid: str


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

    Raises
    ------
    OSError
        From the constructor as from ``store``: ``AssociationRejected``, ``AssociationAborted``, ``Unintelligible``,
        ``TimeoutError``, or what the network reports.
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
        self._fragment_bytes = _LONGEST_FRAGMENT_BYTES
        try:
            connection.send(_request(calling_ae_title, called_ae_title, offers), timeout_s)
            kind, body = self._receive_pdu(time.monotonic() + timeout_s)
            if kind == _ASSOCIATE_RJ:
                raise AssociationRejected(_rejection(body))
            if kind != _ASSOCIATE_AC:
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
            pdus += struct.pack(">BxLLBB", _P_DATA, len(fragment) + 6, len(fragment) + 2, context_id, header)
            pdus += fragment
            if len(pdus) >= _SEND_BYTES:
                self._connection.send(pdus, self._timeout_s)
                pdus.clear()
        self._connection.send(pdus, self._timeout_s)
        return self._receive_status()

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
                if kind == _RELEASE_RQ:
                    primitive = A_RELEASE()
                    primitive.result = "affirmative"
                    self._connection.send(A_RELEASE_RP(primitive).encode(), _LONGEST_RELEASE_S)
            else:
                self._connection.send(A_RELEASE_RQ(A_RELEASE()).encode(), _LONGEST_RELEASE_S)
                self._receive_pdu(time.monotonic() + _LONGEST_RELEASE_S)
        except OSError:
            pass  # it ends either way
        self._connection.close()

    def drop(self) -> None:
        """End the association at once, after a failure: with A-ABORT if the peer can still hear it."""
        try:
            self._connection.send(_abort(), 0.1)
        except OSError:
            pass
        self._connection.close()

    def _fragments(
        self, sop_class_uid: str, sop_instance_uid: str, data_set: Iterable[bytes | memoryview]
    ) -> Iterator[tuple[int, bytes | memoryview]]:
        """Message control header and content of each fragment of the message (PS3.8 annex E)."""
        command = _store_command(self._message_id, sop_class_uid, sop_instance_uid)
        yield _COMMAND | _LAST, command
        last: memoryview | None = None
        for piece in data_set:
            view = memoryview(piece)
            for start in range(0, len(view), self._fragment_bytes):
                if last is not None:
                    yield 0, last
                last = view[start : start + self._fragment_bytes]
        yield _LAST, last if last is not None else b""

    def _receive_status(self) -> int:
        """Receive a C-STORE response (PS3.7 section 9.3.1.2)."""
        deadline = time.monotonic() + self._timeout_s
        command = bytearray()
        while True:
            kind, body = self._receive_pdu(deadline)
            if kind != _P_DATA:
                raise Unintelligible("the C-STORE request was not answered but by another PDU")
            if len(command) + len(body) > _LONGEST_PDU_BYTES:
                raise Unintelligible("the answer to the C-STORE request has no end")
            is_last = False
            for header, fragment in _presentation_data_values(body):
                if not header & _COMMAND:
                    raise Unintelligible("the answer to the C-STORE request is a data set")
                command += fragment
                is_last = bool(header & _LAST)
            if is_last:
                return _status(bytes(command), self._message_id)

    def _receive_pdu(self, deadline: float) -> tuple[int, bytes]:
        """Return type and content of the next PDU; A-ABORT raises."""
        kind, length = struct.unpack(">BxL", self._connection.receive(6, deadline))
        if kind not in _PDU_TYPES or length > _LONGEST_PDU_BYTES:
            raise Unintelligible(f"an answer that is not DICOM (PDU type 0x{kind:02X}, {length} bytes)")
        body = self._connection.receive(length, deadline)
        if kind == _ABORT:
            raise AssociationAborted("the association was aborted by the other side")
        return kind, body

    def _take_acceptance(self, body: bytes, offers: Sequence[Offer]) -> None:
        results, peer_max_bytes = _acceptance(body)
        for context_id, result, transfer_syntax_uid in results:
            index = (context_id - 1) // 2
            if result == 0 and 0 <= index < len(offers) and transfer_syntax_uid == offers[index].transfer_syntax_uid:
                self.accepted[offers[index]] = context_id
        # The length is of the PDU's content, so with the 6 bytes before the fragment (PS3.8 annex D.1); 0: any.
        if peer_max_bytes:
            self._fragment_bytes = max(1, min(self._fragment_bytes, peer_max_bytes - 6))


def _request(calling_ae_title: str, called_ae_title: str, offers: Sequence[Offer]) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 section 9.3.2)."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = _APPLICATION_CONTEXT
    primitive.calling_ae_title = calling_ae_title
    primitive.called_ae_title = called_ae_title
    contexts = []
    for index, offer in enumerate(offers):
        context = build_context(offer.sop_class_uid, offer.transfer_syntax_uid)
        context.context_id = 2 * index + 1
        contexts.append(context)
    primitive.presentation_context_definition_list = contexts
    max_length = MaximumLengthNotification()
    max_length.maximum_length_received = _OUR_MAX_PDU_BYTES
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = PYNETDICOM_IMPLEMENTATION_UID
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = PYNETDICOM_IMPLEMENTATION_VERSION
    primitive.user_information = [max_length, implementation, version]
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def _store_command(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """The command set of a C-STORE request (PS3.7 section 9.3.1.1), in Implicit VR Little Endian."""
    primitive = C_STORE()
    primitive.MessageID = message_id
    primitive.Priority = 0  # medium
    primitive.AffectedSOPClassUID = UID(sop_class_uid)
    primitive.AffectedSOPInstanceUID = UID(sop_instance_uid)
    primitive.DataSet = BytesIO(b"follows")  # only says that there is one
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    encoded = encode(message.command_set, True, True)
    if encoded is None:
        raise ValueError("the C-STORE command set cannot be encoded")
    return bytes(encoded)


def _status(command: bytes, message_id: int) -> int:
    try:
        answer = decode(BytesIO(command), True, True)
        field, responded_to, status = answer.CommandField, answer.MessageIDBeingRespondedTo, answer.Status
    except Exception as error:  # whatever damaged bytes raise in the library's decoder
        raise Unintelligible("the answer to the C-STORE request is malformed") from error
    if field != C_STORE_RSP or responded_to != message_id or not isinstance(status, int):
        raise Unintelligible("the answer does not belong to the C-STORE request")
    return status


def _presentation_data_values(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Message control header and content of each presentation data value of a P-DATA-TF (PS3.8 section 9.3.5.1)."""
    position = 0
    while position < len(body):
        if len(body) - position < 6:
            raise Unintelligible("a P-DATA PDU ends in the middle of a value")
        length, _, header = struct.unpack_from(">LBB", body, position)
        end = position + 4 + length
        if length < 2 or end > len(body):
            raise Unintelligible("a P-DATA PDU holds a value longer than itself")
        yield header, body[position + 6 : end]
        position = end


def _acceptance(body: bytes) -> tuple[list[tuple[int, int, str]], int]:
    """Id, result and transfer syntax of each context, and the longest PDU in bytes (PS3.8 section 9.3.3)."""
    try:
        pdu = A_ASSOCIATE_AC()
        pdu.decode(_with_header(_ASSOCIATE_AC, body))
        acceptance = pdu.to_primitive()
        results = [
            (context.context_id or 0, int(context.result != 0), str(*context.transfer_syntax[:1]))
            for context in acceptance.presentation_context_definition_results_list
        ]
        max_bytes: int | None = acceptance.maximum_length_received
    except Exception as error:  # whatever damaged bytes raise in the library's decoder
        raise Unintelligible("the answer to the association request is malformed") from error
    return results, max_bytes or 0


def _rejection(body: bytes) -> str:
    try:
        pdu = A_ASSOCIATE_RJ()
        pdu.decode(_with_header(_ASSOCIATE_RJ, body))
        return f"{pdu.result_str}, {pdu.source_str}: {pdu.reason_str}"
    except Exception as error:  # whatever damaged bytes raise in the library's decoder
        raise Unintelligible("the rejection of the association is malformed") from error


def _abort() -> bytes:
    pdu = A_ABORT_RQ()
    pdu.source = 0x00  # service user, PS3.8 section 9.3.8
    pdu.reason_diagnostic = 0x00
    return bytes(pdu.encode())


def _with_header(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(body)) + body
