"""One network on the device: engine, stream and memory, all owned by the thread of the context."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray

from appliance.backends.base import NetworkSpec
from appliance.backends.cuda_graph import CudaGraph
from appliance.backends.device_buffers import DeviceBuffers
from appliance.backends.gpu_share import HELD
from appliance.backends.tensorrt_api import TensorRtApi
from appliance.backends.tensorrt_engine import LoadedEngine
from appliance.backends.tiles import smaller_shapes
from appliance.errors import DeviceOutOfMemory

_log = logging.getLogger(__name__)

Shape = tuple[int, ...]

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: not held up by whatever uses the default stream
_FLOAT32 = np.dtype(np.float32)


class DeviceNetwork:
    """Runs one network. Made, used and closed in the thread that owns the CUDA context.

    Parameters
    ----------
    limit_bytes
        What all networks of this process may hold together; ``None`` for whatever is free.

    Attributes
    ----------
    largest
        The largest shape that there was memory for: that of the manifest, or a tile of it where its axes are free.
    sha256
        Of the engine's file.

    Raises
    ------
    BackendUnavailable, ModelPackageError, DeviceOutOfMemory
        See ``LoadedEngine``; and not even the smallest shape fits, with the figures.
    """

    def __init__(self, plan: Path, spec: NetworkSpec, api: TensorRtApi, limit_bytes: int | None = None) -> None:
        self._spec = spec
        self._limit_bytes = limit_bytes
        self._held = 0
        self._captures = not api.ahead_of_time  # TensorRT-RTX does it by itself
        self._stream: Any = cuda.Stream(_NON_BLOCKING)
        self._graph: CudaGraph | None = None
        self._buffers: DeviceBuffers | None = None
        self._engine: LoadedEngine | None = None
        self._shape: Shape | None = None
        self._runs = 0
        try:
            self._engine = LoadedEngine(plan, spec, api)
            self.sha256 = self._engine.sha256
            self._hold(self._engine.file_bytes)
            self.largest = self._take_memory(self._engine)
            self._hold(self.buffers.bytes)
        except BaseException:
            self.close()
            raise

    def _hold(self, size: int) -> None:
        self._held += size
        HELD.add(size)

    def _take_memory(self, engine: LoadedEngine) -> Shape:
        whole = self._spec.input_shape
        first: DeviceOutOfMemory | None = None
        for shape in (whole, *smaller_shapes(whole, self._spec.min_shape or whole)):
            output = engine.give_shape(shape)
            if shape != whole and (output[2:] != shape[2:] or engine.output_type != _FLOAT32):
                break  # tiles are blended voxel by voxel, which labels and other axes do not allow
            sizes = (_bytes(shape, _FLOAT32), _bytes(output, engine.output_type), engine.workspace_bytes())
            try:
                self._buffers = DeviceBuffers(self._spec.name, *sizes, HELD.room(self._limit_bytes))
            except DeviceOutOfMemory as error:
                first = first or error
                continue
            if first is not None:
                _log.warning("%s runs in tiles of %s, because: %s", self._spec.name, list(shape[2:]), first)
            return shape
        assert first is not None
        raise first

    @property
    def device_bytes(self) -> int:
        """Memory of the device that it holds; the engine's file stands for its weights, which TensorRT hides."""
        return self._held

    @property
    def buffers(self) -> DeviceBuffers:
        """Its memory."""
        assert self._buffers is not None
        return self._buffers

    def host_input(self, shape: Shape) -> NDArray[np.float32]:
        """Where the input of the next run is put, by any thread, when no run is under way."""
        return self.buffers.host_input(shape, _FLOAT32)

    def run(self, shape: Shape) -> NDArray[Any]:
        """Copy in, run, copy out, wait; return the output, which the next run overwrites.

        Raises
        ------
        InferenceFailed, DeviceOutOfMemory, DeviceLost
            It did not run.
        """
        engine = self._engine
        assert engine is not None
        if shape != self._shape:
            self._change_shape(engine, shape)
        if self._graph is not None:
            self._graph.launch(self._stream.handle)
        else:
            self._enqueue()
        self._stream.synchronize()
        self._runs += 1
        if self._runs == 1:
            engine.keep_kernels()
        if self._captures and self._graph is None:
            # After a first run with this shape: TensorRT does work then that may not be captured.
            self._graph = CudaGraph.capture(self._stream.handle, self._enqueue)
            self._captures = self._graph is not None
        return self.buffers.host_output(self._output, engine.output_type)

    def _change_shape(self, engine: LoadedEngine, shape: Shape) -> None:
        # A graph holds the state that the context had when it was captured, and is worthless once that changes.
        self._drop_graph()
        self._shape = None
        self._output = engine.give_shape(shape)
        engine.bind(self.buffers, engine.workspace_bytes())
        self._shape = shape

    def _enqueue(self) -> None:
        assert self._engine is not None and self._shape is not None
        # No local name for the stream: an error keeps the locals of its frames, and would destroy it in its own thread.
        host_output = self.buffers.host_output(self._output, self._engine.output_type)
        cuda.memcpy_htod_async(self.buffers.device_input, self.host_input(self._shape), self._stream)
        self._engine.enqueue(self._stream.handle)
        cuda.memcpy_dtoh_async(host_output, self.buffers.device_output, self._stream)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.free()
            self._graph = None

    def close(self) -> None:
        """Give everything back."""
        try:
            self._drop_graph()
            if self._engine is not None:
                if self._runs:
                    self._engine.keep_kernels()
                self._engine.close()
            if self._buffers is not None:
                self._buffers.free()
        finally:
            self._hold(-self._held)
            self._engine = self._buffers = self._stream = None


def _bytes(shape: Shape, dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape)) * dtype.itemsize
