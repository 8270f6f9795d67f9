"""The fault-injecting library (``faults.c``) and the file by which it is told what fails."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path

_SOURCE = Path(__file__).with_name("faults.c")
_FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")

NO_COMPILER = None if shutil.which("cc") else "no C compiler is here to build the fault-injecting library"
"""Why there can be no campaign here, if so."""


class _Control(ctypes.Structure):
    """``struct control`` of ``faults.c``."""

    _fields_ = (
        ("clock_offset_ns", ctypes.c_int64),
        ("free_bytes", ctypes.c_int64),
        ("fsync_failures", ctypes.c_int32),
        ("no_space", ctypes.c_int32),
        ("sync_delay_us", ctypes.c_int32),
        ("write_delay_us", ctypes.c_int32),
        ("met", ctypes.c_int32),
        ("synced_log", ctypes.c_uint64),
    )


class Faults:
    """What fails in the processes that are started with ``environment``; nothing at first.

    Parameters
    ----------
    folder
        For the control file and what the disk is said to have kept.
    below
        Only files below this folder meet faults.
    """

    def __init__(self, folder: Path, below: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        control, self._synced = folder / "control", folder / "synced"
        control.write_bytes(bytes(ctypes.sizeof(_Control)))
        self._synced.touch()
        with control.open("r+b") as stream:
            self._map = mmap.mmap(stream.fileno(), ctypes.sizeof(_Control))
        self._control = _Control.from_buffer(self._map)
        self._control.free_bytes = -1
        self.environment = os.environ | {
            "LD_PRELOAD": str(_library()),
            "CHAOS_CONTROL": str(control),
            "CHAOS_FOLDER": str(below),
            "CHAOS_SYNCED": str(self._synced),
        }

    @property
    def met(self) -> int:
        """How often a disk fault was met so far."""
        return int(self._control.met)

    def clock(self, offset_s: float) -> None:
        """Let the wall clock be off by this much from now on."""
        self._control.clock_offset_ns = int(offset_s * 1e9)

    def disk_full(self, full: bool) -> None:
        """Let all that needs room fail with ENOSPC, and nothing be free."""
        self._control.no_space = full

    def free_bytes(self, free: int | None) -> None:
        """Let so much of the disk be free; ``None``: what is."""
        self._control.free_bytes = -1 if free is None else free

    def fail_fsyncs(self, count: int) -> None:
        """Let the next ``count`` fsyncs of any role fail with EIO."""
        self._control.fsync_failures = count

    def slow_disk(self, sync_s: float, write_s: float) -> None:
        """Let each fsync and each write take so much longer."""
        self._control.sync_delay_us, self._control.write_delay_us = int(sync_s * 1e6), int(write_s * 1e6)

    def lift(self) -> None:
        """End all faults."""
        self.clock(0)
        self.disk_full(False)
        self.free_bytes(None)
        self.fail_fsyncs(0)
        self.slow_disk(0, 0)

    def synced_files(self) -> frozenset[int]:
        """Inode numbers of the files that were brought to the disk."""
        content = self._synced.read_bytes()
        return frozenset(memoryview(content[: len(content) // 8 * 8]).cast("Q"))

    def synced_log(self) -> tuple[int, bytes]:
        """How many frames of the write-ahead log are on the disk, and how the salt in the head of that log begins."""
        state = int(self._control.synced_log)
        return state & 0xFFFFFFFF, (state >> 32).to_bytes(4, sys.byteorder)


def _library() -> Path:
    """Build the library, once for each state of its source."""
    folder = Path(__file__).resolve().parents[2] / ".cache" / "chaos"
    library = folder / f"libfaults-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = library.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", *_FLAGS, "-o", str(made), str(_SOURCE), "-ldl"], check=True)
        made.replace(library)
    return library
