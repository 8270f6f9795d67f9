"""An engine in the GPU's memory with one execution context: loaded, compared with the manifest, given shapes.

Everything here is called in the thread that owns the CUDA context.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from appliance.backends.base import NetworkSpec, check_tensors, wrong_element_type
from appliance.backends.device_buffers import DeviceBuffers
from appliance.backends.tensorrt_api import TensorRtApi, quiet_logger
from appliance.errors import BackendUnavailable, DeviceOutOfMemory, InferenceFailed
from appliance.spool.durable import write_durably

_log = logging.getLogger(__name__)

Shape = tuple[int, ...]


class LoadedEngine:
    """An engine and its execution context.

    Activations live in memory that the session brings: so it is known how much a shape needs before it is taken.

    Parameters
    ----------
    plan
        The serialized engine. What TensorRT-RTX compiles for this GPU is kept beside it.

    Attributes
    ----------
    sha256
        Of the engine's file: two builds of one network may compute differently.
    file_bytes
        Its size.

    Raises
    ------
    BackendUnavailable
        TensorRT does not load it here; its reason is in the message.
    ModelPackageError
        It has other tensors than the manifest says.
    DeviceOutOfMemory
        Its weights do not fit.
    """

    def __init__(self, plan: Path, spec: NetworkSpec, api: TensorRtApi) -> None:
        self._spec = spec
        self._api = api
        self._messages: list[str] = []
        self._kernels = plan.with_name("runtime.cache")
        self._runtime_cache: Any = None
        self._context: Any = None
        logger = quiet_logger(api.module, self._messages)
        self._runtime: Any = api.module.Runtime(logger)
        content = plan.read_bytes()
        self.sha256, self.file_bytes = hashlib.sha256(content).hexdigest(), len(content)
        self._engine: Any = self._runtime.deserialize_cuda_engine(content)
        del content
        try:
            if self._engine is None:
                raise self._not_loaded()
            self._check(plan)
            self._context = self._make_context()
            if self._context is None:
                raise self._not_loaded()
        except BaseException:
            self.close()
            raise

    def _not_loaded(self) -> BackendUnavailable | DeviceOutOfMemory:
        found = self._messages[-1] if self._messages else "no reason given"
        if "out of memory" in found.lower() or "OutOfMemory" in found:
            return DeviceOutOfMemory(
                f"the engine of {self._spec.name} does not fit into the GPU's memory",
                found=found,
                mend="Let fewer models or workers share the GPU",
            )
        return BackendUnavailable(
            f"{self._api.distribution} {self._api.version} does not load the engine of {self._spec.name}",
            found=found,
            mend=f"Build it anew: appliance models convert {self._spec.name.split('/')[0]}",
        )

    def _check(self, plan: Path) -> None:
        trt, engine = self._api.module, self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        check_tensors(
            plan,
            self._spec,
            {name: tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name)) for name in inputs},
            {name: None for name in names if name not in inputs},
        )
        element_type = engine.get_tensor_dtype(self._spec.input_tensor)
        if element_type != trt.DataType.FLOAT:
            raise wrong_element_type(plan, element_type.name)
        self.output_type: np.dtype[Any] = np.dtype(trt.nptype(engine.get_tensor_dtype(self._spec.output_tensor)))

    def _make_context(self) -> Any:
        trt = self._api.module
        managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._api.ahead_of_time:
            return self._engine.create_execution_context(managed)
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(managed)
        # TensorRT-RTX captures by itself, and only it knows when its kernels are final.
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Compiled when a shape is first seen, not some time later beside the inference: warm means final.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._runtime_cache = config.create_runtime_cache()
        kept = _read_kept(self._kernels)
        if kept is not None and not self._runtime_cache.deserialize(kept):
            _log.info("the kernels kept for %s are of another driver or GPU and are compiled anew", self._spec.name)
        config.set_runtime_cache(self._runtime_cache)
        return self._engine.create_execution_context(config)

    def give_shape(self, shape: Shape) -> Shape:
        """Set the input's shape; return the output's.

        Raises
        ------
        InferenceFailed
            TensorRT does not take it.
        """
        if not self._context.set_input_shape(self._spec.input_tensor, shape):
            raise self.failed(f"does not take the shape {shape}")
        output = tuple(int(size) for size in self._context.get_tensor_shape(self._spec.output_tensor))
        if any(size < 0 for size in output):
            raise self.failed(f"does not say how large its output for {shape} is")
        return output

    def workspace_bytes(self) -> int:
        """Memory that a run with the shape that was given needs beside its tensors."""
        return int(self._context.update_device_memory_size_for_shapes())

    def bind(self, buffers: DeviceBuffers, workspace_bytes: int) -> None:
        """Let runs with the shape that was given work in these buffers."""
        if workspace_bytes:
            self._context.set_device_memory(buffers.workspace, workspace_bytes)
        for name, address in (
            (self._spec.input_tensor, buffers.device_input),
            (self._spec.output_tensor, buffers.device_output),
        ):
            if not self._context.set_tensor_address(name, address):
                raise self.failed(f"does not take the memory for {name}")

    def enqueue(self, stream: int) -> None:
        """Put a run on a stream, by its handle; raises ``InferenceFailed``, ``DeviceOutOfMemory``."""
        if not self._context.execute_async_v3(stream):
            raise self.failed("could not run")

    def failed(self, what: str) -> InferenceFailed:
        """The error for something that TensorRT refused, with the last thing that it said."""
        found = self._messages[-1] if self._messages else None
        kind = DeviceOutOfMemory if found is not None and "out of memory" in found.lower() else InferenceFailed
        return kind(f"TensorRT {what}: {self._spec.name}", found=found)

    def keep_kernels(self) -> None:
        """Write what TensorRT-RTX has compiled beside the engine, so that the next start need not; best effort."""
        if self._runtime_cache is None:
            return
        blob = bytes(self._runtime_cache.serialize() or b"")
        content = hashlib.sha256(blob).digest() + blob
        try:
            if blob and (not self._kernels.exists() or self._kernels.read_bytes() != content):
                write_durably(self._kernels, content)
        except OSError as error:
            _log.warning("the compiled kernels of %s could not be kept: %s", self._spec.name, error.strerror)

    def close(self) -> None:
        """Give the memory back, in the order that TensorRT wants."""
        self._context = None
        self._runtime_cache = None
        self._engine = None
        self._runtime = None


def _read_kept(path: Path) -> bytes | None:
    """What was kept, if it is still what was written: kernels with a flipped bit compute, but something else."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    blob = content[32:]
    return blob if hashlib.sha256(blob).digest() == content[:32] else None
