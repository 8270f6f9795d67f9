"""C-STORE request and response as bytes (PS3.7 section 9.3.1): the command set is implicit VR little endian."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

_C_STORE_RQ: Final = 0x0001
_C_STORE_RSP: Final = 0x8001
_NO_DATA_SET: Final = 0x0101
_LAST_COMMAND: Final = 0x03
"""Message Control Header (PS3.8 annex E.2): a command, and its last fragment."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """What a C-STORE request says about the data set that follows."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str


def parse_store_request(command: bytes) -> StoreRequest | None:
    """Read a command set; ``None`` when it is anything else than a usual C-STORE request with a data set."""
    values: dict[int, bytes] = {}
    offset = 0
    while offset + 8 <= len(command):
        group, element, length = struct.unpack_from("<HHI", command, offset)
        value = command[offset + 8 : offset + 8 + length]
        if group != 0 or element in values or len(value) != length:
            return None
        values[element] = value
        offset += 8 + length
    if offset != len(command):
        return None
    field, message_id, data_set = (_number(values.get(element)) for element in (0x0100, 0x0110, 0x0800))
    if field != _C_STORE_RQ or message_id is None or data_set in (None, _NO_DATA_SET):
        return None
    try:
        sop_class_uid, sop_instance_uid = (
            values[element].rstrip(b"\0 ").decode("ascii") for element in (0x0002, 0x1000)
        )
    except (KeyError, UnicodeDecodeError):
        return None
    return StoreRequest(message_id, sop_class_uid, sop_instance_uid)


def encode_store_response(context_id: int, request: StoreRequest, status: int, comment: str) -> bytes:
    """A P-DATA-TF PDU (PS3.8 section 9.3.5) with the response; a comment goes with a failure (PS3.7 annex C)."""
    elements = [
        (0x0002, _padded(request.sop_class_uid, b"\0")),
        (0x0100, struct.pack("<H", _C_STORE_RSP)),
        (0x0120, struct.pack("<H", request.message_id)),
        (0x0800, struct.pack("<H", _NO_DATA_SET)),
        (0x0900, struct.pack("<H", status)),
    ]
    if comment:
        elements.append((0x0902, _padded(comment[:64], b" ")))
    elements.append((0x1000, _padded(request.sop_instance_uid, b"\0")))
    body = b"".join(struct.pack("<HHI", 0, element, len(value)) + value for element, value in elements)
    command = struct.pack("<HHII", 0, 0, 4, len(body)) + body
    value = struct.pack(">IBB", len(command) + 2, context_id, _LAST_COMMAND) + command
    return struct.pack(">BBI", 4, 0, len(value)) + value


def _number(value: bytes | None) -> int | None:
    return struct.unpack("<H", value)[0] if value is not None and len(value) == 2 else None


def _padded(text: str, pad: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + pad * (len(value) % 2)
