"""Unique identifiers: checked before they become a path, derived so that a repeat gives the same object."""

from __future__ import annotations

import hashlib
import re
import uuid

_UID = re.compile(r"[0-9]+(\.[0-9]+)*\Z")
_MAX_LENGTH = 64


def is_valid_uid(text: str) -> bool:
    """Say whether ``text`` may be used as a UID: 1 to 64 digits and dots (PS3.5 section 9.1).

    Leading zeros in a component are tolerated: real devices write them, and they are harmless in a path.
    """
    return len(text) <= _MAX_LENGTH and _UID.match(text) is not None


def derived_uid(*parts: str) -> str:
    """Return the UID that belongs to ``parts``, always the same one (PS3.5 annex B.2, the ``2.25.`` root).

    A job that runs twice, after a power loss say, must give objects with the same UIDs, so that the PACS sees one.
    The parts are joined with a separator that cannot occur in them, and hashed to a version 8 UUID.
    """
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    value = bytearray(digest[:16])
    value[6] = (value[6] & 0x0F) | 0x80
    value[8] = (value[8] & 0x3F) | 0x80
    return f"2.25.{uuid.UUID(bytes=bytes(value)).int}"
