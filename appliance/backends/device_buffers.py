"""The memory that a session works in: pinned on the host and its counterpart on the device, got once, given back once.

Everything here is called in the thread that owns the context.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray

from appliance.errors import DeviceOutOfMemory


class DeviceBuffers:
    """Input, output and workspace of one network, each large enough for the largest shape that it will be given.

    Parameters
    ----------
    network
        Its name, for messages.
    input_bytes, output_bytes
        Of the tensors: as much is taken on the host, pinned, so that copies run beside other work.
    workspace_bytes
        Of what the network needs while it runs, on the device alone.
    room_bytes
        How much of the device it may take; ``None`` for whatever is free.

    Raises
    ------
    DeviceOutOfMemory
        They do not fit, or the host can pin no more. Nothing is held then.
    """

    def __init__(
        self, network: str, input_bytes: int, output_bytes: int, workspace_bytes: int, room_bytes: int | None = None
    ) -> None:
        self._device: list[Any] = []
        self._host: list[Any] = []  # arrays, whose base is what pycuda gives back
        needed = input_bytes + output_bytes + workspace_bytes
        free, total = cuda.mem_get_info()
        free = free if room_bytes is None else min(free, room_bytes)
        try:
            if needed > free:
                raise cuda.MemoryError("more than is free")
            self.device_input, self.device_output, self.workspace = (
                self._allocate(size) for size in (input_bytes, output_bytes, workspace_bytes)
            )
            self._host = [cuda.pagelocked_empty(size, np.uint8) for size in (input_bytes, output_bytes)]
        except cuda.MemoryError as error:
            self.free()
            raise DeviceOutOfMemory(
                f"{network} does not fit into the GPU's memory",
                found=f"{needed / 2**20:.1f} MiB needed, {free / 2**20:.1f} MiB free for it of {total / 2**20:.0f} MiB",
                mend="Let fewer models or workers share the GPU (worker.gpu_memory_bytes), or give the stage a "
                "profile with smaller shapes",
            ) from error
        except BaseException:
            self.free()
            raise
        self.bytes = needed

    def _allocate(self, size: int) -> int:
        """Return the address of so many bytes; TensorRT wants one even where a network needs no workspace."""
        self._device.append(cuda.mem_alloc(max(size, 1)))
        return int(self._device[-1])

    def host_input(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The pinned input as an array, C-contiguous; a view that must not outlive the buffers."""
        return _view(self._host[0], shape, dtype)

    def host_output(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The pinned output as an array, C-contiguous; a view that must not outlive the buffers."""
        return _view(self._host[1], shape, dtype)

    def free(self) -> None:
        """Give everything back, even where the device refuses some of it."""
        try:
            while self._device:
                self._device.pop().free()
        finally:
            while self._host:
                self._host.pop().base.free()


def _view(buffer: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    size = int(np.prod(shape)) * dtype.itemsize
    return buffer[:size].view(dtype).reshape(shape)
