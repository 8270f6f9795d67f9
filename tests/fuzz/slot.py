"""Memory that a fuzzing process shares with its watchman: the case at hand survives the death of the process."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Final

_HEAD: Final = struct.Struct("<qqddqI")
"""Number at hand, cases done, when it began (0: none), slowest seconds, its number, bytes of the case at hand."""
_CASE_BYTES: Final = 512 * 1024


class Slot:
    """Written by one process, read by another, which may see a case half written: only when it is of no interest."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_HEAD.size + _CASE_BYTES))
        with path.open("r+b") as stream:
            self._memory = mmap.mmap(stream.fileno(), _HEAD.size + _CASE_BYTES)

    def begin(self, number: int, case: bytes, now: float) -> None:
        """Note a case before it is run."""
        _, done, _, slowest_s, slowest, _ = self._fields()
        kept = case[:_CASE_BYTES]
        self._memory[_HEAD.size : _HEAD.size + len(kept)] = kept
        _HEAD.pack_into(self._memory, 0, number, done, now, slowest_s, slowest, len(kept))

    def end(self, now: float) -> None:
        """Note that it came back."""
        number, done, began, slowest_s, slowest, size = self._fields()
        if now - began > slowest_s:
            slowest_s, slowest = now - began, number
        _HEAD.pack_into(self._memory, 0, number, done + 1, 0.0, slowest_s, slowest, size)

    @property
    def number(self) -> int:
        """The number of the case at hand, or of the last one."""
        return int(self._fields()[0])

    @property
    def done(self) -> int:
        """How many cases have come back."""
        return int(self._fields()[1])

    @property
    def began(self) -> float:
        """When the case at hand began (monotonic, in seconds); 0 between cases."""
        return float(self._fields()[2])

    @property
    def slowest(self) -> tuple[float, int]:
        """Seconds and number of the slowest case."""
        _, _, _, seconds, number, _ = self._fields()
        return float(seconds), int(number)

    @property
    def case(self) -> bytes:
        """The bytes of the case at hand."""
        size = int(self._fields()[5])
        return self._memory[_HEAD.size : _HEAD.size + size]

    def _fields(self) -> tuple[int, int, float, float, int, int]:
        return _HEAD.unpack_from(self._memory)
