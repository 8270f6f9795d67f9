"""A thread that owns a CUDA context: whatever touches the device is done there, whoever asks for it.

A context is current in one thread at a time, and pycuda frees memory only in the thread that got it. The context is
the primary one of the device, which the CUDA runtime inside TensorRT uses as well.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import pycuda.driver as cuda

from appliance.errors import DeviceLost, DeviceOutOfMemory, InferenceFailed

_log = logging.getLogger(__name__)

T = TypeVar("T")

_START_LIMIT_S = 120.0
"""A driver that is just being loaded takes seconds; one that takes minutes hangs."""


class CudaThread:
    """Runs functions, one after the other, with the device's context current.

    Parameters
    ----------
    ordinal
        Which device.

    Raises
    ------
    DeviceLost
        The device gives no context.
    """

    def __init__(self, name: str, ordinal: int = 0) -> None:
        self._ordinal = ordinal
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._started: Future[None] = Future()
        self._over = threading.Event()
        self._stays = False
        # A daemon: a driver that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        try:
            self._started.result(_START_LIMIT_S)
        except TimeoutError as error:
            raise DeviceLost("the GPU gives no context", expected=f"one within {_START_LIMIT_S:g} s") from error

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Have a function run; the future gives what it returns or raises, CUDA's errors as the appliance's own."""
        future: Future[T] = Future()
        self._work.put((future, function))
        return future

    def close(self, timeout_s: float) -> None:
        """Give the context back when everything before is done; waits for it, but not for ever."""
        self._work.put(None)
        self._over.wait(timeout_s)
        if not self._stays:
            self._thread.join(timeout_s)

    def _serve(self) -> None:
        try:
            with cuda_errors():
                cuda.init()
                context = cuda.Device(self._ordinal).retain_primary_context()
                context.push()
        except InferenceFailed as error:
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        while (entry := self._work.get()) is not None:
            future, function = entry
            try:
                with cuda_errors():
                    future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - raised again where the future is asked
                future.set_exception(error)
            del entry, future, function  # what they hold must not outlive the context
        try:
            cuda.Context.pop()
        except cuda.Error as error:
            # pycuda aborts the process when a thread ends with a context, which a lost device does not let go. The
            # process may live on, on its CPU: so this thread does not end.
            _log.warning("the context of a lost GPU is left to the end of the process: %s", error)
            self._stays = True
            self._over.set()
            threading.Event().wait()
        context.detach()
        self._over.set()


@contextmanager
def cuda_errors() -> Iterator[None]:
    """Turn errors of the driver into the appliance's own.

    Only a lack of memory leaves the context as it was. After any other error its state is unknown (CUDA driver API,
    ``CUresult``: most of them end the context for good).
    """
    try:
        yield
    except cuda.MemoryError as error:
        raise DeviceOutOfMemory("the GPU has no memory left", found=str(error)) from error
    except cuda.Error as error:
        raise DeviceLost(
            "the GPU failed",
            found=str(error),
            mend="The worker starts anew. If it happens again, look for Xid in the kernel's log and at nvidia-smi",
        ) from error
