"""The GPU of this process, as its driver describes it: asked without pycuda, so that converting needs none."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _MULTIPROCESSORS = 75, 76, 16  # CUdevice_attribute


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """A GPU that the driver shows to this process.

    Attributes
    ----------
    ordinal
        Its number, from 0.
    capability
        Compute capability, such as ``8.9``.
    driver
        The newest CUDA version that the driver knows, such as ``13.0``.
    """

    ordinal: int
    name: str
    capability: str
    multiprocessors: int
    memory_bytes: int
    driver: str

    @property
    def kind(self) -> str:
        """What an engine that was timed on this device depends on; two devices of a name can differ in it."""
        return f"{self.capability}, {self.multiprocessors} multiprocessors, {self.memory_bytes >> 20} MiB"


def device_count() -> int:
    """How many GPUs the driver shows to this process; 0 without a driver."""
    driver = load_driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def find_device(ordinal: int = 0) -> CudaDevice | None:
    """Return a GPU, or ``None`` where there is no driver or no such device."""
    driver = load_driver()
    if driver is None or ordinal >= device_count():
        return None
    version = ctypes.c_int(0)
    name = ctypes.create_string_buffer(256)
    memory = ctypes.c_size_t(0)
    values = {}
    answers = [
        driver.cuDeviceGetName(name, len(name), ordinal),
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), ordinal),
        driver.cuDriverGetVersion(ctypes.byref(version)),
    ]
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _MULTIPROCESSORS):
        value = ctypes.c_int(0)
        answers.append(driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, ordinal))
        values[attribute] = value.value
    if any(answers):
        return None
    capability = f"{values[_CAPABILITY_MAJOR]}.{values[_CAPABILITY_MINOR]}"
    return CudaDevice(
        ordinal,
        name.value.decode(errors="replace"),
        capability,
        values[_MULTIPROCESSORS],
        memory.value,
        f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def memory_used(ordinal: int = 0) -> int:
    """Bytes of a GPU that are in use, by all processes; 0 where there is none, or where it does not say."""
    driver = load_driver()
    context = ctypes.c_void_p()
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal) != 0:
        return 0
    driver.cuCtxPushCurrent_v2(context)
    answered = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    driver.cuDevicePrimaryCtxRelease_v2(ordinal)
    return total.value - free.value if answered else 0


def load_driver() -> Any | None:
    """Return the CUDA driver's library, or ``None`` where it is not installed."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
