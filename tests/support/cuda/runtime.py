"""A double of TensorRT's runtime: it takes addresses on the device, and computes with ONNX Runtime.

The names are those of the Python API of TensorRT 10 and 11, and of TensorRT-RTX. Its "engines" are ONNX files behind a
magic. What it runs, it puts on the stream: nothing is computed before someone waits.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

from tests.support.cuda.device import EmulatedDevice

MAGIC = b"emulated engine\n"
WORKSPACE_PER_VOXEL = 64
"""Bytes that a run needs for each element of its input."""

_TYPES = {TensorProto.FLOAT: "FLOAT", TensorProto.UINT8: "UINT8", TensorProto.FLOAT16: "HALF"}
_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
Strategy = enum.Enum("Strategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED")


class ILogger:
    """Its severities, and the base of the appliance's own."""

    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


class DataType(enum.Enum):
    """Element types; ``DOUBLE`` stands for all that no TensorRT takes."""

    FLOAT, HALF, UINT8, DOUBLE = range(4)


class TensorIOMode(enum.Enum):
    """Which way a tensor goes."""

    NONE, INPUT, OUTPUT = range(3)


class RuntimeCache:
    """Kernels compiled for this device: a text that says for how many runs they have been used."""

    content: bytes = b""

    def deserialize(self, blob: bytes) -> bool:
        """Take what was kept."""
        if not blob.startswith(b"kernels"):
            return False
        self.content = bytes(blob)
        return True

    def serialize(self) -> bytes:
        """Give what is to be kept."""
        return self.content


class RuntimeConfig:
    """What TensorRT-RTX wants to know before it makes a context."""

    strategy: Any = None
    runtime_cache: RuntimeCache | None = None
    cuda_graph_strategy: Any = None
    dynamic_shapes_kernel_specialization_strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        """See TensorRT."""
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        """See TensorRT-RTX."""
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        """See TensorRT-RTX."""
        self.runtime_cache = cache
        return True


class Runtime:
    """Loads engines."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        """Return the engine, or ``None`` and a message."""
        if not plan.startswith(MAGIC):
            self._logger.log(ILogger.ERROR, "the engine plan is not of this version")
            return None
        device = EmulatedDevice()
        address = ctypes.c_uint64(0)
        if device.driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(len(plan))) != 0:
            self._logger.log(ILogger.ERROR, "[defaultAllocator.cpp::allocate] Cuda failure: out of memory")
            return None
        return Engine(plan[len(MAGIC) :], device, address, self._logger)


class Engine:
    """The network of an ONNX file; its weights take as much of the device as the file is large."""

    def __init__(self, network: bytes, device: EmulatedDevice, weights: ctypes.c_uint64, logger: Any) -> None:
        self.network = network
        self.device = device
        self.logger = logger
        self._weights = weights
        graph = onnx.load_model_from_string(network).graph
        constants = {entry.name for entry in graph.initializer}
        self._inputs = {entry.name: entry for entry in graph.input if entry.name not in constants}
        self._tensors = {**self._inputs, **{entry.name: entry for entry in graph.output}}

    def __del__(self) -> None:
        self.device.driver.cuMemFree_v2(self._weights)

    @property
    def num_io_tensors(self) -> int:
        """See TensorRT."""
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        """See TensorRT."""
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """See TensorRT."""
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """See TensorRT; -1 for a free axis."""
        axes = self._tensors[name].type.tensor_type.shape.dim
        return tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in axes)

    def get_tensor_dtype(self, name: str) -> DataType:
        """See TensorRT."""
        return DataType[_TYPES.get(self._tensors[name].type.tensor_type.elem_type, "DOUBLE")]

    def create_runtime_config(self) -> RuntimeConfig:
        """See TensorRT-RTX."""
        return RuntimeConfig()

    def create_execution_context(self, how: Any) -> ExecutionContext:
        """By a strategy, or by a ``RuntimeConfig``; the memory has to be the caller's."""
        config = how if isinstance(how, RuntimeConfig) else None
        assert (how if config is None else config.strategy) is Strategy.USER_MANAGED
        return ExecutionContext(self, None if config is None else config.runtime_cache)


class ExecutionContext:
    """Runs an engine."""

    _pending: ClassVar[dict[int, Callable[[], None]]] = {}
    _numbers = itertools.count(1)

    def __init__(self, engine: Engine, cache: RuntimeCache | None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(engine.network, options, providers=["CPUExecutionProvider"])
        self._engine = engine
        self._cache = cache
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = (0, 0)
        self._jobs: list[int] = []

    def __del__(self) -> None:
        for number in self._jobs:
            self._pending.pop(number, None)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """See TensorRT."""
        axes = self._engine.get_tensor_shape(name)
        if len(axes) != len(shape) or any(a not in (-1, b) for a, b in zip(axes, shape, strict=True)):
            self._engine.logger.log(ILogger.ERROR, f"the shape {shape} is not that of the profile")
            return False
        model = onnx.load_model_from_string(self._engine.network)
        for axis, size in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
            axis.dim_value = size
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        self._shapes = {name: tuple(shape)}
        for entry in inferred.graph.output:
            self._shapes[entry.name] = tuple(axis.dim_value for axis in entry.type.tensor_type.shape.dim)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """See TensorRT."""
        return self._shapes[name]

    def update_device_memory_size_for_shapes(self) -> int:
        """See TensorRT."""
        return WORKSPACE_PER_VOXEL * int(np.prod(self._shapes[self._session.get_inputs()[0].name]))

    def set_device_memory(self, address: int, size: int) -> None:
        """See TensorRT."""
        assert size >= self.update_device_memory_size_for_shapes()
        self._memory = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        """See TensorRT."""
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        """Put a run on the stream; every address must be one of the device, large enough for its tensor."""
        number = next(self._numbers)
        shapes, addresses, memory = dict(self._shapes), dict(self._addresses), self._memory
        this = weakref.ref(self)  # a graph may run it again, but must not keep the context alive

        def compute() -> None:
            if (context := this()) is not None:
                context._compute(shapes, addresses, memory)

        self._pending[number] = compute
        self._jobs.append(number)
        launched = self._engine.device.driver.cuLaunchHostFunc(ctypes.c_void_p(stream), _RUN, ctypes.c_void_p(number))
        return bool(launched == 0)

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int], memory: tuple[int, int]) -> None:
        session, reach = self._session, self._engine.device.reach
        (given,) = session.get_inputs()
        size = int(np.prod(shapes[given.name])) * 4
        if not reach(addresses[given.name], size) or not reach(*memory):
            return  # put down as a violation
        tensor = np.frombuffer(_bytes_at(addresses[given.name], size), np.float32).reshape(shapes[given.name])
        ctypes.memset(memory[0], 0x5A, memory[1])
        names = [entry.name for entry in session.get_outputs()]
        for name, output in zip(names, session.run(names, {given.name: tensor.copy()}), strict=True):
            if name in addresses and reach(addresses[name], output.nbytes):
                ctypes.memmove(addresses[name], np.ascontiguousarray(output).ctypes.data, output.nbytes)
        if self._cache is not None:
            self._cache.content = b"kernels"


def _bytes_at(address: int, size: int) -> Any:
    return (ctypes.c_char * size).from_address(address)


def _run(number: int) -> None:
    ExecutionContext._pending[number]()


_RUN = _HOST_FUNCTION(_run)


class TensorRtDouble:
    """The module ``tensorrt``, or ``tensorrt_rtx``, as far as the appliance's sessions use it."""

    ILogger, DataType, TensorIOMode, Runtime = ILogger, DataType, TensorIOMode, Runtime
    ExecutionContextAllocationStrategy = Strategy
    CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
    DynamicShapesKernelSpecializationStrategy = enum.Enum("Specialization", "LAZY EAGER NONE")
    __version__ = "11.0.0"

    @staticmethod
    def nptype(element_type: DataType) -> Any:
        """See TensorRT."""
        return {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.UINT8: np.uint8}[element_type]
