"""Decoders in processes of their own: several at once, and a crash costs an image, not the worker.

Decoders of compressed pixels hold Python's lock while they work, and they are native code that reads what anybody may
have sent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from appliance.errors import DecoderLost, UnsuitableImage

TIME_LIMIT_S = 120.0
"""How long one image may take: a mammography of 20 frames in JPEG 2000 takes seconds."""
_ATTEMPTS = 2


class Decoders:
    """A bounded number of decoder processes, started when they are first needed.

    Parameters
    ----------
    count
        How many.
    niceness
        Added to that of this process.
    on_crash
        Called whenever a process has ended in the middle of an image.
    """

    def __init__(
        self, count: int, *, niceness: int = 0, time_limit_s: float = TIME_LIMIT_S,
        on_crash: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._arguments = [str(time_limit_s), str(niceness)]
        self._on_crash = on_crash
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decoder")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def submit(self, path: Path) -> Future[NDArray[Any]]:
        """Begin to decode a file of the spool; the result is its stored values ``[frame, row, column]``.

        The result raises ``UnsuitableImage`` as ``read_image_file`` and ``stored_values`` do, and with ``undecodable``
        when the image ends its decoder twice; ``DecoderLost`` when it was killed from outside; ``OSError``.
        """
        return self._threads.submit(self._decode, path)

    def pids(self) -> list[int]:
        """Process ids of those that run."""
        with self._lock:
            return [process.pid for process in self._processes]

    def close(self) -> None:
        """End all processes; what was not decoded yet is cancelled."""
        with self._lock:
            self._closed = True
            processes = list(self._processes)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        self._threads.shutdown()
        for process in list(self._processes):
            self._bury(process)

    def _decode(self, path: Path) -> NDArray[Any]:
        for _ in range(_ATTEMPTS):
            process = self._process()
            try:
                return _ask(process, path)
            except (EOFError, BrokenPipeError):
                self._local.process = None
                code = self._bury(process)
                self._on_crash()
        if -code in (signal.SIGKILL, signal.SIGTERM):
            raise DecoderLost(
                "the process that decodes pixel data was killed",
                found=f"signal {-code}, twice",
                mend="Look for the kernel's out-of-memory killer: dmesg",
            )
        raise UnsuitableImage(
            "undecodable",
            "the pixel data end the process that decodes them",
            found=f"signal {-code}" if code < 0 else f"exit code {code}",
            mend="Send the image again, uncompressed if it fails again",
        )

    def _process(self) -> subprocess.Popen[bytes]:
        """This thread's process."""
        process: subprocess.Popen[bytes] | None = getattr(self._local, "process", None)
        if process is None:
            with self._lock:
                if self._closed:
                    raise DecoderLost("the decoders are closed", mend="Nothing: the job is taken up again")
                process = subprocess.Popen(
                    [sys.executable, "-m", "appliance.imaging.decoder_process", *self._arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    # What libraries print of an image may be about the patient.
                    stderr=subprocess.DEVNULL,
                    env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                )
                self._processes.add(process)
            self._local.process = process
        return process

    def _bury(self, process: subprocess.Popen[bytes]) -> int:
        """See a process to its end and return its exit code, negative for a signal."""
        with self._lock:
            self._processes.discard(process)
        process.kill()  # when it lives, what it said made no sense
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        return code


def _ask(process: subprocess.Popen[bytes], path: Path) -> NDArray[Any]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(str(path)).encode() + b"\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    head = json.loads(line)
    if "refusal" in head:
        reason, what, found, expected, mend = head["refusal"]
        raise UnsuitableImage(reason, what, found=found, expected=expected, mend=mend)
    if "errno" in head:
        raise OSError(head["errno"], os.strerror(head["errno"] or 0))
    if "defect" in head:
        raise RuntimeError(head["defect"])
    values = np.empty(head["shape"], head["dtype"])
    _read_into(process.stdout, values.data.cast("B"))
    return values


def _read_into(stream: IO[bytes], target: memoryview) -> None:
    while target:
        count = stream.readinto(target)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        target = target[count:]
