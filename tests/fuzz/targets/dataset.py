"""The data set parser, and the way of a file into the spool."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

from appliance.errors import RejectedInput
from appliance.intake.part10 import scan_file
from tests.fuzz.logs import PLANTED_ROOT, PLANTED_TEXT
from tests.fuzz.target import Target
from tests.support.received_files import element, item, sequence_end

_MAX_BYTES = 1024 * 1024


class DataSet(Target):
    """Scans each case; what is refused names nothing that is in it."""

    name = "dataset"
    hang_s = 5.0
    memory_mib = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._path = folder / "case"

    def run(self, case: bytes) -> None:
        """Scan."""
        self._path.write_bytes(case)
        try:
            scan_file(self._path, max_bytes=_MAX_BYTES)
        except RejectedInput as refusal:
            assert PLANTED_TEXT not in str(refusal) and PLANTED_ROOT not in str(refusal), str(refusal)
            assert refusal.reason

    def check(self) -> None:
        """A good file is read after all of them."""
        self._path.write_bytes(self.corpus()[0])
        assert scan_file(self._path, max_bytes=_MAX_BYTES).study_instance_uid.startswith(PLANTED_ROOT)


def _elements(case: bytearray) -> list[tuple[int, int]]:
    """Start and end of the top-level elements of an explicit VR little endian file, as far as they can be followed."""
    at, found = 132 if case[128:132] == b"DICM" else 0, []
    while at + 8 <= len(case):
        short = case[at + 4 : at + 6] in (
            b"UI",
            b"CS",
            b"PN",
            b"LO",
            b"DA",
            b"TM",
            b"SH",
            b"IS",
            b"DS",
            b"US",
            b"UL",
            b"LT",
        )
        form, offset, head = ("<H", 6, 8) if short else ("<I", 8, 12)
        if at + head > len(case):
            break
        end = at + head + int(struct.unpack_from(form, case, at + offset)[0])
        if end > len(case):
            break
        found.append((at, end))
        at = end
    return found


def _rearrange(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    """An element is left out, doubled, or moved."""
    found = _elements(case)
    if not found:
        return
    start, end = rng.choice(found)
    piece = case[start:end]
    if rng.random() < 0.7:
        del case[start:end]
    if rng.random() < 0.7:
        at = min(rng.choice(found)[0], len(case))
        case[at:at] = piece * rng.choice((1, 1, 2, 300))


def _nest(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    """An element within sequences within sequences."""
    found = _elements(case)
    start, end = rng.choice(found) if found else (len(case), len(case))
    inner = bytes(case[start:end])
    for _ in range(rng.choice((1, 2, 30, 70, 1000))):
        inner = element(0x0040A375, "SQ", b"", length=0xFFFFFFFF) + item(inner, undefined=True)
        inner += sequence_end() if rng.random() < 0.95 else b""
        if len(inner) > 60_000:
            break
    case[start:end] = inner


def _value(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    """An element gets a value that its attribute does not allow, of a length that is right."""
    found = _elements(case)
    if not found:
        return
    start, end = rng.choice(found)
    value = rng.choice(
        (
            b"",
            b"\xff",
            b"../" * 20,
            b"1." * 40,
            b"\\" * 100,
            b"1e999",
            b"-1",
            b"\x1b$B\x80",
            b"9" * 200,
            rng.randbytes(64),
        )
    )
    tag, vr = struct.unpack_from("<HH", case, start), bytes(case[start + 4 : start + 6])
    if vr.isalpha():
        case[start:end] = element(tag[0] << 16 | tag[1], vr.decode(), value)


DataSet.steps = (_rearrange, _nest, _value)
