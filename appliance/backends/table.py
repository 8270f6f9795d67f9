"""The inference backends there are."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from appliance.backends.base import Backend
from appliance.backends.gpu_share import WHOLE_GPU, GpuShare
from appliance.errors import BackendUnavailable
from appliance.manifest.manifest import BackendName, Precision

BACKENDS: dict[BackendName, str] = {
    "onnxruntime": "appliance.backends.onnxruntime_backend:OnnxRuntimeBackend",
    "openvino": "appliance.backends.openvino_backend:OpenVinoBackend",
    "tensorrt": "appliance.backends.tensorrt_backend:TensorRtBackend",
}
"""Name → where the class is. Runtimes are heavy: each is imported when it is first asked for."""


def backend_class(name: BackendName) -> type[Backend]:
    """Import and return a backend's class.

    Raises
    ------
    BackendUnavailable
        Its runtime is not installed.
    """
    module, _, attribute = BACKENDS[name].partition(":")
    try:
        found: type[Backend] = getattr(import_module(module), attribute)
    except ImportError as error:
        raise BackendUnavailable(f"{name} is not installed", mend=f"pip install {error.name or name}") from error
    return found


def choose(
    names: Sequence[BackendName], precision: Precision, *, threads: int, cache: Path, gpu: GpuShare = WHOLE_GPU
) -> Backend:
    """Return the first of ``names`` that can run networks of this precision here.

    Raises
    ------
    BackendUnavailable
        None can; every reason is named.
    """
    reasons = []
    for name in names:
        try:
            found = backend_class(name)
        except BackendUnavailable as error:
            reasons.append(str(error))
            continue
        reason = found.unavailable(precision)
        if reason is None:
            return found(threads=threads, cache=cache, gpu=gpu)
        reasons.append(reason)
    raise BackendUnavailable("no backend can run this model here", found="; ".join(reasons))
