"""TensorRT or TensorRT-RTX: one API in two distributions, found once and passed on as a value.

``tensorrt`` times kernels on the GPU that will run the engine, and needs it to convert. ``tensorrt-rtx`` builds ahead
of time on any machine, for a set of compute capabilities; the GPU finishes the work when the engine is first run.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from appliance.errors import BackendUnavailable

Distribution = Literal["tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True, slots=True)
class TensorRtApi:
    """An imported distribution.

    Attributes
    ----------
    module
        ``tensorrt`` or ``tensorrt_rtx``.
    """

    module: Any
    distribution: Distribution

    @property
    def version(self) -> str:
        """The distribution's version; engines of another are not loaded."""
        return str(self.module.__version__)

    @property
    def ahead_of_time(self) -> bool:
        """Whether engines are built without a GPU, for several compute capabilities."""
        return self.distribution == "tensorrt-rtx"


def find_tensorrt() -> TensorRtApi:
    """Return ``tensorrt`` where it and a GPU are there, else ``tensorrt-rtx``.

    Raises
    ------
    BackendUnavailable
        Neither can be used here; both reasons are named.
    """
    reasons = []
    if not gpu_is_there():
        reasons.append("tensorrt: needs an NVIDIA GPU and its driver to convert")
    else:
        try:
            return TensorRtApi(import_module("tensorrt"), "tensorrt")
        except ImportError:
            reasons.append("tensorrt: not installed (pip install tensorrt)")
    try:
        return TensorRtApi(import_module("tensorrt_rtx"), "tensorrt-rtx")
    except ImportError:
        reasons.append("tensorrt-rtx: not installed (pip install tensorrt-rtx)")
    raise BackendUnavailable("no TensorRT can convert models here", found="; ".join(reasons))


def gpu_is_there() -> bool:
    """Whether the CUDA driver is installed and sees a device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
