"""The TensorRT backend on the double; engines come from ``convert``, as from ``appliance models convert``."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import onnxruntime

from appliance.backends.base import NetworkSpec, Session
from appliance.backends.cuda_device import find_device
from appliance.backends.engine_builder import CAPABILITIES, BuiltEngine, build_engine
from appliance.backends.engine_cache import EngineCache
from appliance.backends.gpu_share import WHOLE_GPU, GpuShare
from appliance.backends.tensorrt_api import Distribution, TensorRtApi, find_tensorrt
from appliance.backends.tensorrt_backend import TensorRtBackend
from tests.support.cuda.runtime import MAGIC, TensorRtDouble


def double_api(distribution: Distribution = "tensorrt-rtx") -> TensorRtApi:
    """The double as either distribution; as ``tensorrt`` it needs the emulated device."""
    if distribution == "tensorrt-rtx":
        return TensorRtApi(TensorRtDouble, distribution)
    device = find_device()
    assert device is not None
    return TensorRtApi(TensorRtDouble, distribution, device.kind)


def convert(model: Path, spec: NetworkSpec, cache: Path, api: TensorRtApi) -> Path:
    """Put the double's engine of a network into the cache, as the command would; return its file.

    What is no network is given to the real builder, for its error.
    """
    content = model.read_bytes()

    def build() -> BuiltEngine:
        try:
            quiet = onnxruntime.SessionOptions()
            quiet.log_severity_level = 4
            onnxruntime.InferenceSession(content, quiet, providers=["CPUExecutionProvider"])
        except Exception:  # noqa: BLE001 - whatever it is: the real builder says it
            return _build(model, spec, find_tensorrt())
        # No two builds are alike: each has a doc_string (field 6 of ONNX's ModelProto) of its own.
        return BuiltEngine(
            MAGIC + content + b"\x32\x08" + os.urandom(4).hex().encode(),
            0.1,
            1,
            CAPABILITIES if api.ahead_of_time else (),
        )

    return EngineCache(cache / "engines").get(hashlib.sha256(content).hexdigest(), spec, api, build).path


class DoubledTensorRt(TensorRtBackend):
    """See ``TensorRtBackend``; engines have to be there."""

    distribution: Distribution = "tensorrt-rtx"

    def __init__(self, *, threads: int, cache: Path, gpu: GpuShare = WHOLE_GPU) -> None:
        super().__init__(threads=threads, cache=cache, gpu=gpu, api=double_api(self.distribution))


class EmulatedTensorRt(DoubledTensorRt):
    """Converts before it opens."""

    def _open(self, model: Path, spec: NetworkSpec) -> Session:
        if model.exists():
            convert(model, spec, self.cache, self._api)
        return super()._open(model, spec)


class EmulatedTensorRtProper(EmulatedTensorRt):
    """The same as ``tensorrt``, whose runs the session itself keeps as CUDA graphs."""

    distribution: Distribution = "tensorrt"


class ConvertedTensorRt(TensorRtBackend):
    """No double: the real runtime on a real GPU, converting before it opens; for ``tests/gpu``."""

    def _open(self, model: Path, spec: NetworkSpec) -> Session:
        if model.exists():
            EngineCache(self.cache / "engines").get(
                hashlib.sha256(model.read_bytes()).hexdigest(), spec, self._api, lambda: _build(model, spec, self._api)
            )
        return super()._open(model, spec)


def _build(model: Path, spec: NetworkSpec, api: TensorRtApi) -> BuiltEngine:
    return build_engine(model, spec, api, time_limit_s=600, memory_limit_bytes=1 << 30, progress=lambda _: None)
