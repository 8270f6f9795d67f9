"""A run of a network as one CUDA graph: launched at once instead of kernel by kernel.

pycuda has no graphs, so the driver is asked itself (CUDA driver API, "Graph Management").
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import Any

from appliance.backends.cuda_device import load_driver
from appliance.errors import DeviceLost

_log = logging.getLogger(__name__)

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do does not spoil the capture


class CudaGraph:
    """What ``enqueue`` puts on a stream, kept for later runs. Belongs to the thread that owns the context."""

    def __init__(self, executable: ctypes.c_void_p, driver: Any) -> None:
        self._executable = executable
        self._driver = driver

    @classmethod
    def capture(cls, stream: int, enqueue: Callable[[], None]) -> CudaGraph | None:
        """Return the graph of what ``enqueue`` does, or ``None`` when it cannot be captured; nothing runs yet.

        Parameters
        ----------
        stream
            The handle of the stream that ``enqueue`` uses.
        """
        driver = load_driver()
        if driver is None or not hasattr(driver, "cuGraphInstantiateWithFlags"):
            return None
        handle = ctypes.c_void_p(stream)
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        if driver.cuStreamBeginCapture_v2(handle, _THREAD_LOCAL) != 0:
            return None
        captured = True
        try:
            enqueue()
        except Exception as error:  # noqa: BLE001 - whatever it is: it runs without a graph, or fails again there
            _log.info("no CUDA graph: %s", error)
            captured = False
        ended = driver.cuStreamEndCapture(handle, ctypes.byref(graph))
        if not captured or ended != 0 or not graph:
            if graph:
                driver.cuGraphDestroy(graph)
            return None
        code = driver.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        driver.cuGraphDestroy(graph)
        return cls(executable, driver) if code == 0 else None

    def launch(self, stream: int) -> None:
        """Put the graph on a stream, by its handle.

        Raises
        ------
        DeviceLost
            The driver does not take it.
        """
        code = self._driver.cuGraphLaunch(self._executable, ctypes.c_void_p(stream))
        if code != 0:
            raise DeviceLost("the GPU failed", found=f"cuGraphLaunch: {code}", mend="The worker starts anew")

    def free(self) -> None:
        """Give it back; nothing of it may be running."""
        self._driver.cuGraphExecDestroy(self._executable)
