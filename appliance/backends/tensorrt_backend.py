"""TensorRT and TensorRT-RTX on an NVIDIA GPU: engines that ``appliance models convert`` has built."""

from __future__ import annotations

import hashlib
import logging
import time
from concurrent.futures import Future
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from appliance.backends.base import Backend, NetworkSpec, Session
from appliance.backends.cuda_device import CudaDevice, device_count, find_device, memory_used
from appliance.backends.engine_cache import EngineCache, engines_in
from appliance.backends.gpu_share import WHOLE_GPU, GpuShare
from appliance.backends.tensorrt_api import TensorRtApi, find_tensorrt
from appliance.backends.tiles import Blend, windows
from appliance.errors import BackendUnavailable, DeviceLost, InferenceFailed, ModelPackageError
from appliance.manifest.manifest import Precision

if TYPE_CHECKING:  # pycuda can only be imported where there is a driver
    from appliance.backends.cuda_thread import CudaThread
    from appliance.backends.device_network import DeviceNetwork

_log = logging.getLogger(__name__)

_OPEN_LIMIT_S = 600.0
_CLOSE_LIMIT_S = 10.0


class TensorRtBackend(Backend):
    """See ``Backend``. It never builds: an engine that is missing, stale or of another GPU is named as such.

    Parameters
    ----------
    api
        The distribution to use; found when it is not given.
    """

    name = "tensorrt"
    builds_differ = True

    def __init__(self, *, threads: int, cache: Path, gpu: GpuShare = WHOLE_GPU, api: TensorRtApi | None = None) -> None:
        super().__init__(threads=threads, cache=cache, gpu=gpu)
        count = device_count()
        device = find_device(gpu.ordinal(count)) if count else None
        if device is None:
            raise BackendUnavailable(_NO_DEVICE)
        self._device: CudaDevice = device
        self._api = api or find_tensorrt(device.ordinal)
        self._limit_bytes = gpu.limit_bytes(count, device.memory_bytes)

    @classmethod
    def unavailable(cls, precision: Precision) -> str | None:
        """See ``Backend``; every precision runs, since it is that of the engine."""
        if find_device() is None:
            return _NO_DEVICE
        try:
            import_module("pycuda.driver")
            find_tensorrt()
        except ModuleNotFoundError:
            return "tensorrt: pycuda is not installed (pip install pycuda)"
        except ImportError as error:
            return f"tensorrt: pycuda does not load here: {error} (pip install --force-reinstall pycuda)"
        except BackendUnavailable as error:
            return str(error)
        return None

    def version(self) -> str:
        """See ``Backend``; ``tensorrt-rtx`` is named, since it is another runtime."""
        return self._api.version + (" (TensorRT-RTX)" if self._api.ahead_of_time else "")

    def device(self) -> str:
        """See ``Backend``."""
        return f"{self._device.name} (compute capability {self._device.kind}, CUDA {self._device.driver})"

    def device_memory_used(self) -> int:
        """See ``Backend``."""
        return memory_used(self._device.ordinal)

    def _open(self, model: Path, spec: NetworkSpec) -> Session:
        plan = self._find_engine(model, spec)
        from appliance.backends.cuda_thread import CudaThread
        from appliance.backends.device_network import DeviceNetwork

        thread = CudaThread(f"GPU {spec.name}", self._device.ordinal)
        try:
            make = partial(DeviceNetwork, plan, spec, self._api, self._limit_bytes)
            network = thread.submit(make).result(_OPEN_LIMIT_S)
        except TimeoutError as error:
            raise DeviceLost(
                f"the engine of {spec.name} is not loaded", expected=f"loaded within {_OPEN_LIMIT_S:g} s"
            ) from error
        except BaseException:
            thread.close(_CLOSE_LIMIT_S)
            raise
        return _TensorRtSession(spec, thread, network)

    def _find_engine(self, model: Path, spec: NetworkSpec) -> Path:
        try:
            with model.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise ModelPackageError(
                f"{model.name} cannot be read", found=error.strerror, mend="Fetch it: appliance models fetch"
            ) from error
        folder = self.cache / "engines"
        found = EngineCache(folder).find(sha256, spec, self._api)
        if found is None:
            raise self._missing(spec, sha256, folder)
        capabilities = found.info.get("capabilities", [])
        if self._api.ahead_of_time and self._device.capability not in capabilities:
            reason = found.info.get("left_out", {}).get(self._device.capability)
            raise BackendUnavailable(
                f"the engine of {spec.name} is not for this GPU",
                found=f"compute capability {self._device.capability}" + (f" ({reason[:160]})" if reason else ""),
                expected=f"one of {', '.join(capabilities)}",
                mend="Install tensorrt, which builds for the GPU that is there, or let another backend run the model",
            )
        return found.path

    def _missing(self, spec: NetworkSpec, sha256: str, folder: Path) -> BackendUnavailable:
        """Why there is no engine: never built, or which of the things that it depends on has changed."""
        others = [info for info in engines_in(folder) if info.get("network") == spec.name]
        found = "none was built"
        if others:
            last = others[-1]
            differences = [
                text
                for text, differs in (
                    ("of another network file", last.get("onnx_sha256") != sha256),
                    (f"in {last.get('precision')}", last.get("precision") != spec.precision),
                    (
                        f"by {last.get('distribution')} {last.get('version')}",
                        (last.get("distribution"), last.get("version")) != (self._api.distribution, self._api.version),
                    ),
                )
                if differs
            ]
            found = f"one {', '.join(differences) or 'for another GPU, other shapes or by another recipe'}"
        return BackendUnavailable(
            f"there is no engine of {spec.name} for {self._api.distribution} {self._api.version} on this GPU",
            found=found,
            mend=f"Build it: appliance models convert {spec.name.split('/')[0]}",
        )


_NO_DEVICE = "tensorrt: no NVIDIA GPU and driver on this machine"


class _TensorRtSession(Session):
    """What the device does is done in the thread of its context; the caller waits there, as long as it may."""

    def __init__(self, spec: NetworkSpec, thread: CudaThread, network: DeviceNetwork) -> None:
        super().__init__(spec)
        self._thread = thread
        self._network = network
        self.device_bytes = network.device_bytes
        self.variant = f"engine {network.sha256[:16]}"
        if network.largest != spec.input_shape:
            self.variant += f", in tiles of {list(network.largest[2:])}"
        self._late: Future[Any] | None = None  # a run that took too long: nothing on a GPU can be broken off

    def _run(self, tensor: NDArray[np.float32], time_limit_s: float) -> NDArray[Any]:
        deadline = time.monotonic() + time_limit_s
        tile = tuple(min(size, most) for size, most in zip(tensor.shape, self._network.largest, strict=True))
        if tile[2:] == tensor.shape[2:]:
            return np.array(self._run_once(tensor, deadline, time_limit_s))
        blend = Blend(tensor.shape[2:], tile[2:])
        places = windows(tensor.shape[2:], tile[2:])
        at_once = max(1, self._network.largest[0] // len(tensor))  # as many tiles as the batch axis has room for
        for start in range(0, len(places), at_once):
            batch = places[start : start + at_once]
            parts = np.concatenate([tensor[(slice(None), slice(None), *place)] for place in batch])
            outputs = self._run_once(parts, deadline, time_limit_s)
            for place, output in zip(batch, np.split(outputs, len(batch)), strict=True):
                blend.add(place, output)
        return blend.mean()

    def _run_once(self, tensor: NDArray[np.float32], deadline: float, time_limit_s: float) -> NDArray[Any]:
        """Run one tensor that the device has room for; what is returned is overwritten by the next run."""
        self._wait_for_late(deadline)
        np.copyto(self._network.host_input(tensor.shape), tensor)
        future = self._thread.submit(partial(self._network.run, tensor.shape))
        try:
            return future.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            self._late = future
            raise self.timed_out(time_limit_s) from error

    def _wait_for_late(self, deadline: float) -> None:
        """Let a run that took too long end before its memory is used again.

        Raises
        ------
        DeviceLost
            It does not end: the device hangs.
        """
        if self._late is None:
            return
        try:
            failed = self._late.exception(max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise DeviceLost(
                f"the GPU does not come back from an earlier run of {self.spec.name}", mend="The worker starts anew"
            ) from error
        self._late = None
        if isinstance(failed, DeviceLost):
            raise failed

    def run_bare(self, tensor: NDArray[np.float32]) -> NDArray[Any]:
        np.copyto(self._network.host_input(tensor.shape), tensor)
        return self._thread.submit(partial(self._network.run, tensor.shape)).result()

    def close(self) -> None:
        try:
            self._thread.submit(self._network.close).result(_CLOSE_LIMIT_S)
        except (InferenceFailed, TimeoutError) as error:
            # The device is gone or hangs: its driver takes everything back when the process ends.
            _log.warning("the GPU memory of %s was not given back: %s", self.spec.name, error)
        self._thread.close(_CLOSE_LIMIT_S)
