"""The PDUs and command sets of a storage SCU, to and from bytes (PS3.8 section 9.3, PS3.7 section 9.3.1).

pynetdicom encodes and decodes what opens and ends an association; whatever it makes of damaged bytes comes out as
``Unintelligible``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydicom.uid import UID
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, A_RELEASE_RP, A_RELEASE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    A_RELEASE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

from appliance.domain.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 2, 3, 4, 5, 6, 7

COMMAND, LAST = 0x01, 0x02
"""Bits of the message control header (PS3.8 annex E.2)."""

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 annex A.2.1

# PS3.7 annex E.1.
_COMMAND_GROUP_LENGTH, _AFFECTED_SOP_CLASS_UID = 0x00000000, 0x00000002
_COMMAND_FIELD, _MESSAGE_ID = 0x00000100, 0x00000110
_RESPONDED_TO, _PRIORITY, _COMMAND_DATA_SET_TYPE, _STATUS = 0x00000120, 0x00000700, 0x00000800, 0x00000900
_AFFECTED_SOP_INSTANCE_UID = 0x00001000
_C_STORE_RQ, _C_STORE_RSP, _MEDIUM, _DATA_SET_FOLLOWS = 0x0001, 0x8001, 0x0000, 0x0001

_OUR_MAX_PDU_BYTES = 16384  # only answers come in, of a hundred bytes


class Unintelligible(ConnectionError):
    """The peer sent what is not DICOM, or not in its turn."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One presentation context: one SOP class in one transfer syntax, so that the answer leaves no doubt."""

    sop_class_uid: str
    transfer_syntax_uid: str


def associate_request(calling_ae_title: str, called_ae_title: str, offers: Sequence[Offer]) -> bytes:
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
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    primitive.user_information = [max_length, implementation, version]
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """The command set of a C-STORE request (PS3.7 section 9.3.1.1), in Implicit VR Little Endian.

    Packed here: the library takes half a millisecond for it, which is more than all the rest of a small object.
    """
    elements = (
        _element(_AFFECTED_SOP_CLASS_UID, _padded(sop_class_uid))
        + _element(_COMMAND_FIELD, struct.pack("<H", _C_STORE_RQ))
        + _element(_MESSAGE_ID, struct.pack("<H", message_id))
        + _element(_PRIORITY, struct.pack("<H", _MEDIUM))
        + _element(_COMMAND_DATA_SET_TYPE, struct.pack("<H", _DATA_SET_FOLLOWS))
        + _element(_AFFECTED_SOP_INSTANCE_UID, _padded(sop_instance_uid))
    )
    return _element(_COMMAND_GROUP_LENGTH, struct.pack("<L", len(elements))) + elements


def store_status(command: bytes, message_id: int) -> int:
    """The status in the command set of a C-STORE response to ``message_id`` (PS3.7 section 9.3.1.2)."""
    values: dict[int, bytes] = {}
    position = 0
    while position + 8 <= len(command):
        group, element, length = struct.unpack_from("<HHL", command, position)
        values[group << 16 | element] = command[position + 8 : position + 8 + length]
        position += 8 + length
    if position != len(command):
        raise Unintelligible("the answer to the C-STORE request is malformed")
    try:
        field, responded_to, status = (
            int(struct.unpack("<H", values[tag])[0]) for tag in (_COMMAND_FIELD, _RESPONDED_TO, _STATUS)
        )
    except (KeyError, struct.error) as error:
        raise Unintelligible("the answer to the C-STORE request lacks what it must have") from error
    if field != _C_STORE_RSP or responded_to != message_id:
        raise Unintelligible("the answer does not belong to the C-STORE request")
    return status


def _element(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def _padded(uid: str) -> bytes:
    """A UID of even length (PS3.5 section 6.2)."""
    encoded = uid.encode("ascii")
    return encoded + bytes(len(encoded) % 2)


def presentation_data_values(body: bytes) -> Iterator[tuple[int, bytes]]:
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


def acceptance(body: bytes) -> tuple[list[tuple[int, int, str]], int]:
    """Id, result and transfer syntax of each context, and the longest PDU in bytes (PS3.8 section 9.3.3)."""
    try:
        pdu = A_ASSOCIATE_AC()
        pdu.decode(_with_header(ASSOCIATE_AC, body))
        acceptance = pdu.to_primitive()
        results = [
            (context.context_id or 0, int(context.result != 0), str(*context.transfer_syntax[:1]))
            for context in acceptance.presentation_context_definition_results_list
        ]
        max_bytes: int | None = acceptance.maximum_length_received
    except Exception as error:  # whatever damaged bytes raise in the library's decoder
        raise Unintelligible("the answer to the association request is malformed") from error
    if not results:
        # The decoder passes over items that it does not know, so that noise reads as an empty acceptance.
        raise Unintelligible("the answer to the association request answers no presentation context")
    return results, max_bytes or 0


def rejection(body: bytes) -> str:
    """The reason of an A-ASSOCIATE-RJ as people read it (PS3.8 section 9.3.4)."""
    try:
        pdu = A_ASSOCIATE_RJ()
        pdu.decode(_with_header(ASSOCIATE_RJ, body))
        return f"{pdu.result_str}, {pdu.source_str}: {pdu.reason_str}"
    except Exception as error:  # whatever damaged bytes raise in the library's decoder
        raise Unintelligible("the rejection of the association is malformed") from error


def release_request() -> bytes:
    """A-RELEASE-RQ (PS3.8 section 9.3.6)."""
    return bytes(A_RELEASE_RQ(A_RELEASE()).encode())


def release_response() -> bytes:
    """A-RELEASE-RP (PS3.8 section 9.3.7)."""
    primitive = A_RELEASE()
    primitive.result = "affirmative"
    return bytes(A_RELEASE_RP(primitive).encode())


def abort() -> bytes:
    """A-ABORT (PS3.8 section 9.3.8)."""
    pdu = A_ABORT_RQ()
    pdu.source = 0x00  # service user
    pdu.reason_diagnostic = 0x00
    return bytes(pdu.encode())


def _with_header(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(body)) + body
