"""TensorRT or TensorRT-RTX: one API in two distributions, found once and passed on as a value.

``tensorrt`` times kernels on the GPU that will run the engine, and needs it to convert. ``tensorrt-rtx`` builds ahead
of time on any machine, for a set of compute capabilities; the GPU finishes the work when the engine is first run.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from appliance.backends.cuda_device import find_device
from appliance.errors import BackendUnavailable

Distribution = Literal["tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True, slots=True)
class TensorRtApi:
    """An imported distribution.

    Attributes
    ----------
    module
        ``tensorrt`` or ``tensorrt_rtx``.
    device
        What engines of ``tensorrt`` are bound to, see ``CudaDevice.kind``; ``None`` for those built ahead of time.
    """

    module: Any
    distribution: Distribution
    device: str | None = None

    @property
    def version(self) -> str:
        """The distribution's version; engines of another are not loaded."""
        return str(self.module.__version__)

    @property
    def ahead_of_time(self) -> bool:
        """Whether engines are built without a GPU, for several compute capabilities."""
        return self.distribution == "tensorrt-rtx"


def find_tensorrt(ordinal: int = 0) -> TensorRtApi:
    """Return ``tensorrt`` where it and a GPU are there, else ``tensorrt-rtx``; ``ordinal`` says which GPU.

    Raises
    ------
    BackendUnavailable
        Neither can be used here; both reasons are named.
    """
    reasons = []
    device = find_device(ordinal)
    if device is None:
        reasons.append("tensorrt: needs an NVIDIA GPU and its driver to convert")
    else:
        try:
            return TensorRtApi(import_module("tensorrt"), "tensorrt", device.kind)
        except ImportError:
            reasons.append("tensorrt: not installed (pip install tensorrt)")
        except OSError as error:  # its libraries are looked for by hand
            reasons.append(f"tensorrt: does not load here: {error}")
    try:
        return TensorRtApi(import_module("tensorrt_rtx"), "tensorrt-rtx")
    except ImportError:
        reasons.append("tensorrt-rtx: not installed (pip install tensorrt-rtx)")
    except OSError as error:
        reasons.append(f"tensorrt-rtx: does not load here: {error}")
    raise BackendUnavailable("no TensorRT can convert models here", found="; ".join(reasons))


def quiet_logger(trt: Any, messages: list[str]) -> Any:
    """A logger that keeps warnings and errors in ``messages``; TensorRT's own prints them."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.WARNING:
                messages.append(" ".join(message.split()))

    return Logger()
