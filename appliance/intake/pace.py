"""How slowly a peer may send: slower than that, it only keeps a place from others."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Pace:
    """The least rate of a message, on average since its first byte.

    Parameters
    ----------
    min_bytes_per_s
        The least rate.
    grace_s
        It is not asked for before this long.
    """

    min_bytes_per_s: int
    grace_s: float

    def start(self) -> Progress:
        """A message begins now."""
        return Progress(self)


@dataclass(slots=True)
class Progress:
    """One message on its way."""

    pace: Pace
    began: float = field(default_factory=time.monotonic)

    def too_slow(self, received_bytes: int) -> bool:
        """Say whether this many bytes are too few by now."""
        elapsed_s = time.monotonic() - self.began
        return elapsed_s > self.pace.grace_s and received_bytes < elapsed_s * self.pace.min_bytes_per_s
