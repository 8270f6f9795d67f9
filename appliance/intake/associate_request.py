"""The bounds of an A-ASSOCIATE-RQ (PS3.8 section 9.3.2), looked at before the library makes objects of it."""

from __future__ import annotations

import struct
from typing import Final

MAX_CONTEXTS: Final = 128
"""There are no more numbers: odd ones from 1 to 255 (PS3.8 section 9.3.2.2)."""
_MAX_ITEMS: Final = 4096
"""Items of all kinds and depths: 128 contexts with 30 transfer syntaxes each are less."""
_FIXED_BYTES: Final = 68
"""Protocol version, AE titles and what is reserved, in front of the items."""
_CONTEXT, _USER_INFORMATION = 0x20, 0x50


def trouble_with(body: bytes) -> str | None:
    """Say what is wrong with the content of an A-ASSOCIATE-RQ PDU; ``None``: it can be handed on.

    The text holds nothing of what the peer sent but numbers.
    """
    if len(body) < _FIXED_BYTES:
        return f"a request of {len(body)} bytes, which is shorter than its fixed part of {_FIXED_BYTES}"
    contexts = items = 0
    at, end = _FIXED_BYTES, len(body)
    while at < end:
        if at + 4 > end:
            return "an item that is cut off"
        kind, _, length = struct.unpack_from(">BBH", body, at)
        if at + 4 + length > end:
            return f"an item that is {at + 4 + length - end} bytes longer than the request"
        if kind == _CONTEXT:
            contexts += 1
        if kind in (_CONTEXT, _USER_INFORMATION):
            items += _count(body, at + (8 if kind == _CONTEXT else 4), at + 4 + length)
        items += 1
        if contexts > MAX_CONTEXTS or items > _MAX_ITEMS:
            return f"more than {MAX_CONTEXTS} presentation contexts, or than {_MAX_ITEMS} items"
        at += 4 + length
    return None


def _count(body: bytes, at: int, end: int) -> int:
    """How many items there are between two offsets; their own lengths are the library's to check."""
    count = 0
    while at + 4 <= end and count <= _MAX_ITEMS:
        at += 4 + int.from_bytes(body[at + 2 : at + 4], "big")
        count += 1
    return count
