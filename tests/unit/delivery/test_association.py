"""How a message is cut into PDUs, without a network."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import MaximumLengthNotification

from appliance.delivery.association import StorageAssociation
from appliance.delivery.connection import Connection
from appliance.delivery.pdus import Offer, Unintelligible, presentation_data_values, store_request, store_status
from tests.support.result_files import EXPLICIT, IMPLICIT, SOP_CLASSES

OFFERS = [Offer(SOP_CLASSES["sr"], EXPLICIT), Offer(SOP_CLASSES["sr"], IMPLICIT)]


class Script(Connection):
    """A connection whose other side accepts the association and answers every message with 0x0000."""

    def __init__(self, max_pdu_bytes: int) -> None:
        super().__init__()
        self._max_pdu_bytes = max_pdu_bytes
        self._incoming = bytearray()
        self.sent: list[bytes] = []
        self._message_id = 0

    def send(self, data: bytes | bytearray, timeout_s: float) -> None:
        self.sent.append(bytes(data))
        if data[0] == 1:
            self._incoming += _acceptance(bytes(data), self._max_pdu_bytes)
        elif values(self.sent)[-1][0] == 2:
            self._message_id += 1
            self._incoming += _success(self._message_id)

    def receive(self, count: int, deadline: float) -> bytes:
        piece = bytes(self._incoming[:count])
        del self._incoming[:count]
        return piece


def _acceptance(request: bytes, max_pdu_bytes: int) -> bytes:
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(request)
    primitive = pdu.to_primitive()
    for context in primitive.presentation_context_definition_list:
        context.result = 0
    primitive.result, primitive.result_source = 0, 1
    primitive.presentation_context_definition_results_list = primitive.presentation_context_definition_list
    for item in primitive.user_information:
        if isinstance(item, MaximumLengthNotification):
            item.maximum_length_received = max_pdu_bytes
    return bytes(A_ASSOCIATE_AC(primitive).encode())


def _success(message_id: int) -> bytes:
    response = C_STORE()
    response.MessageIDBeingRespondedTo = message_id
    response.AffectedSOPClassUID, response.AffectedSOPInstanceUID = SOP_CLASSES["sr"], "1.2.3"
    response.Status = 0
    message = C_STORE_RSP()
    message.primitive_to_message(response)
    command = encode(message.command_set, True, True)
    assert command is not None
    # In two fragments, as a peer may.
    return b"".join(
        struct.pack(">BxLLBB", 4, len(part) + 6, len(part) + 2, 1, header) + part
        for header, part in ((1, command[:10]), (3, command[10:]))
    )


def pdus(sent: Sequence[bytes]) -> list[bytes]:
    """The P-DATA PDUs, whole."""
    stream = b"".join(sent)
    found = []
    while stream:
        length = 6 + int.from_bytes(stream[2:6], "big")
        found.append(stream[:length])
        stream = stream[length:]
    return [pdu for pdu in found if pdu[0] == 4]


def values(sent: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Header and content of each presentation data value."""
    return [value for pdu in pdus(sent) for value in presentation_data_values(pdu[6:])]


def associate(max_pdu_bytes: int) -> tuple[StorageAssociation, Script]:
    script = Script(max_pdu_bytes)
    association = StorageAssociation(
        script, calling_ae_title="APPLIANCE", called_ae_title="PACS", offers=OFFERS, timeout_s=1
    )
    return association, script


@given(pieces=st.lists(st.binary(max_size=700)), max_pdu_bytes=st.integers(7, 600))
def test_no_pdu_is_longer_than_the_peer_takes_and_nothing_is_lost(pieces: list[bytes], max_pdu_bytes: int) -> None:
    association, script = associate(max_pdu_bytes)

    assert association.store(1, SOP_CLASSES["sr"], "1.2.3", pieces) == 0x0000

    command, *data = values(script.sent)
    assert command[0] == 3
    assert b"".join(content for _, content in data) == b"".join(pieces)
    assert [header for header, _ in data] == [0] * (len(data) - 1) + [2], "only the last says that it is"
    assert all(len(pdu) - 6 <= max_pdu_bytes for pdu in pdus(script.sent)[1:])


def test_any_length_is_used_with_measure() -> None:
    association, script = associate(0)
    association.store(1, SOP_CLASSES["sr"], "1.2.3", [bytes(1_000_000)])
    assert max(map(len, pdus(script.sent))) < 200_000
    assert max(map(len, script.sent)) < 500_000


def test_each_message_has_its_number() -> None:
    association, _ = associate(16384)
    for _ in range(3):
        association.store(1, SOP_CLASSES["sr"], "1.2.3", [b"data"])


@given(st.binary(max_size=200))
def test_noise_in_a_command_set_is_unintelligible(command: bytes) -> None:
    with pytest.raises(Unintelligible):
        store_status(command, 7)


def test_the_request_reads_back() -> None:
    command = decode(BytesIO(store_request(513, SOP_CLASSES["sr"], "1.2.345")), True, True)
    assert command.CommandGroupLength == len(store_request(513, SOP_CLASSES["sr"], "1.2.345")) - 12
    assert (command.CommandField, command.MessageID, command.Priority) == (0x0001, 513, 0)
    assert command.CommandDataSetType != 0x0101
    assert command.AffectedSOPClassUID == SOP_CLASSES["sr"]
    assert command.AffectedSOPInstanceUID == "1.2.345"


def test_what_the_data_set_raises_passes_through() -> None:
    association, _ = associate(16384)
    with pytest.raises(ZeroDivisionError):
        association.store(1, SOP_CLASSES["sr"], "1.2.3", (bytes(1 // number) for number in (1, 0)))


@given(st.binary(max_size=100))
def test_noise_in_a_p_data_pdu_is_unintelligible_or_values(body: bytes) -> None:
    try:
        found = list(presentation_data_values(body))
    except Unintelligible:
        return
    assert sum(6 + len(content) for _, content in found) == len(body)
