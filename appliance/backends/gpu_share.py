"""Which GPU a worker uses, and how much of its memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuShare:
    """One worker among several. Workers are spread over the GPUs in turn; those of one GPU share its memory.

    Attributes
    ----------
    worker
        Its number, from 0.
    workers
        How many there are.
    memory_bytes
        What its models may hold together; 0 for an equal share, or all that is free where no other worker shares.
    """

    worker: int = 0
    workers: int = 1
    memory_bytes: int = 0

    def ordinal(self, gpus: int) -> int:
        """Which of so many GPUs it uses."""
        return self.worker % gpus

    def limit_bytes(self, gpus: int, total_bytes: int) -> int | None:
        """What its models may hold together of a GPU with so much memory; ``None`` for whatever is free."""
        if self.memory_bytes:
            return self.memory_bytes
        sharers = len(range(self.ordinal(gpus), self.workers, gpus))
        return total_bytes // sharers if sharers > 1 else None


WHOLE_GPU = GpuShare()
"""Of a process that shares with nobody: the first GPU."""


class HeldMemory:
    """What the sessions of this process hold of its GPU; the context is one for the process, and so is this."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0

    def add(self, size: int) -> None:
        """Count so many bytes more, or fewer when it is negative."""
        with self._lock:
            self._bytes += size

    def room(self, limit_bytes: int | None) -> int | None:
        """What is left of a limit; never below 0."""
        return None if limit_bytes is None else max(0, limit_bytes - self._bytes)


HELD = HeldMemory()
"""Of this process."""
