"""Association requests that no library should be given."""

from __future__ import annotations

import struct

import pytest

from appliance.intake.associate_request import MAX_CONTEXTS, trouble_with
from tests.support.raw_peer import associate_request

BODY = associate_request()[6:]
FIXED = 68


def item(kind: int, content: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content) if length is None else length) + content


def test_a_usual_request() -> None:
    assert trouble_with(BODY) is None


def test_as_many_contexts_as_there_are_numbers() -> None:
    syntaxes = item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2") * 20
    contexts = b"".join(item(0x20, bytes([2 * number + 1, 0, 0, 0]) + syntaxes) for number in range(MAX_CONTEXTS))
    assert trouble_with(BODY[:FIXED] + contexts) is None
    assert "128 presentation contexts" in str(trouble_with(BODY[:FIXED] + contexts + item(0x20, bytes(4))))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (BODY[:40], "40 bytes"),
        (BODY[:FIXED] + item(0x20, bytes(10), 60_000), "59990 bytes longer"),
        (BODY[:FIXED] + b"\x20", "cut off"),
        (BODY[:FIXED] + item(0x50, item(0x54, b"") * 5000), "4096 items"),
        (BODY[:FIXED] + item(0x20, bytes(4) + item(0x40, b"") * 5000), "4096 items"),
    ],
    ids=["short", "longer-than-it-is", "cut-off", "user-items", "syntaxes"],
)
def test_what_is_refused_and_why(body: bytes, words: str) -> None:
    assert words in str(trouble_with(body))
