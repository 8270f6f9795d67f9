"""Cases made of seeds: bytes are damaged as disks, bugs and attackers do, and structures are rebuilt wrongly.

Everything is drawn from the generator that is handed in, so a case is known by its target, seed and number.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Final

_NUMBERS: Final = (
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    32767,
    65534,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 2,
    2**32 - 1,
)
_TOKENS: Final = (
    b"DICM",
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
    b"\xfe\xff\x0d\xe0\0\0\0\0",
    b"\xfe\xff\xdd\xe0\0\0\0\0",
    b"\x40\x00\x75\xa3SQ\0\0\xff\xff\xff\xff",
    b"\x08\x00\x05\x00CS\x0a\0ISO_IR 999",
    b"\x08\x00\x05\x00CS\x14\0\\ISO 2022 IR 87\\x\x1b$B ",
    b"\x08\x00\x18\x00UI\x10\0../../etc/passwd",
    b"\x20\x00\x0d\x00UI\x08\0/dev/nul",
    b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff",
    b"\x28\x00\x08\x00IS\x0a\x002147483647",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b\x08\0",
    b"\x04\0\0\0\0\x06\0\0\0\x02\x01\x03",
    b"\xff\xd8\xff",
    b"\xff\x4f\xff\x51",
    b"\0" * 64,
    b"\xff" * 64,
    b"%n%s{}\r\n\x1b[2J",
)
_LONGEST: Final = 256 * 1024

Step = Callable[[random.Random, bytearray, Sequence[bytes]], None]
"""Changes a case in place; the seeds are there to take pieces from."""


def mutate(rng: random.Random, seeds: Sequence[bytes], steps: Sequence[Step] = ()) -> bytes:
    """Return a case: a seed after one to five changes.

    Parameters
    ----------
    steps
        The target's own changes, which know its structure; half of all changes are of these where there are any.
    """
    case = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        own = bool(steps) and rng.random() < 0.5
        rng.choice(steps if own else _STEPS)(rng, case, seeds)
        del case[_LONGEST:]
    return bytes(case)


def _at(rng: random.Random, case: bytearray) -> int:
    return rng.randrange(len(case) + 1)


def _flip(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    if case:
        case[rng.randrange(len(case))] ^= 1 << rng.randrange(8)


def _overwrite(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    at = _at(rng, case)
    patch = rng.randbytes(rng.choice((1, 2, 4, 16)))
    case[at : at + len(patch)] = patch


def _number(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    """A length, count or offset that lies."""
    at = _at(rng, case)
    form = rng.choice(("<H", ">H", "<I", ">I"))
    mask = (1 << 8 * struct.calcsize(form)) - 1
    patch = struct.pack(form, rng.choice((*_NUMBERS, len(case), len(case) - at)) & mask)
    case[at : at + len(patch)] = patch


def _token(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    at, token = _at(rng, case), rng.choice(_TOKENS)
    case[at : at + (len(token) if rng.random() < 0.5 else 0)] = token


def _cut(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    del case[_at(rng, case) :]


def _remove(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    at = _at(rng, case)
    del case[at : at + rng.choice((1, 2, 8, 64, 512))]


def _repeat(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    at = _at(rng, case)
    piece = case[at : at + rng.choice((1, 8, 12, 64, 512))]
    case[at:at] = piece * rng.choice((1, 2, 16, 1000))


def _splice(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    start = rng.randrange(len(other) + 1)
    case[_at(rng, case) :] = other[start:]


_STEPS: Final[tuple[Step, ...]] = (_flip, _overwrite, _number, _number, _token, _cut, _remove, _repeat, _splice)
