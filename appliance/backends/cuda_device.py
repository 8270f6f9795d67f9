"""The GPU of this process, as its driver describes it: asked without pycuda, so that converting needs none."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _MULTIPROCESSORS = 75, 76, 16  # CUdevice_attribute


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """The first GPU that the driver shows to this process (``CUDA_VISIBLE_DEVICES`` chooses among several).

    Attributes
    ----------
    capability
        Compute capability, such as ``8.9``.
    """

    name: str
    capability: str
    multiprocessors: int
    memory_bytes: int

    @property
    def kind(self) -> str:
        """What an engine that was timed on this device depends on; two devices of a name can differ in it."""
        return f"{self.capability}, {self.multiprocessors} multiprocessors, {self.memory_bytes >> 20} MiB"


def find_device() -> CudaDevice | None:
    """Return the GPU, or ``None`` where there is no driver or no device."""
    driver = load_driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return None
    name = ctypes.create_string_buffer(256)
    memory = ctypes.c_size_t(0)
    values = {}
    answers = [driver.cuDeviceGetName(name, len(name), 0), driver.cuDeviceTotalMem_v2(ctypes.byref(memory), 0)]
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _MULTIPROCESSORS):
        value = ctypes.c_int(0)
        answers.append(driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0))
        values[attribute] = value.value
    if any(answers):
        return None
    capability = f"{values[_CAPABILITY_MAJOR]}.{values[_CAPABILITY_MINOR]}"
    return CudaDevice(name.value.decode(errors="replace"), capability, values[_MULTIPROCESSORS], memory.value)


def memory_used() -> int:
    """Bytes of the GPU that are in use, by all processes; 0 where there is none, or where it does not say."""
    driver = load_driver()
    context = ctypes.c_void_p()
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) != 0:
        return 0
    driver.cuCtxPushCurrent_v2(context)
    answered = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    driver.cuDevicePrimaryCtxRelease_v2(0)
    return total.value - free.value if answered else 0


def load_driver() -> Any | None:
    """Return the CUDA driver's library, or ``None`` where it is not installed."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
