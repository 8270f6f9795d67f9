"""Work in a process of its own that must not outlive the one that wants its result."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Called first in such a process: when the parent is killed, the kernel kills this one (prctl(2)).

    A builder would otherwise go on for minutes, with all the memory that it has taken, for nobody.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # it died before the kernel was told
