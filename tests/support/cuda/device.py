"""The emulated device, as a process that runs on it sees it."""

from __future__ import annotations

import ctypes
import json


class EmulatedDevice:
    """Counts what is done to the device, and lets it fail. Only in a process that runs on the emulated driver."""

    def __init__(self) -> None:
        self.driver = ctypes.CDLL("libcuda.so.1")
        self.driver.emulated_report.restype = ctypes.c_char_p
        self.driver.emulated_violations.restype = ctypes.c_char_p
        self.driver.emulated_fail.argtypes = [ctypes.c_long, ctypes.c_long]
        self.driver.emulated_capacity.argtypes = [ctypes.c_size_t]
        self.driver.emulated_capacity.restype = ctypes.c_size_t
        self.driver.emulated_reach.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
        self.driver.emulated_reach.restype = ctypes.c_int

    @property
    def counts(self) -> dict[str, int]:
        """What was done, and what is there now: ``bytes``, ``streams``, ``graphs``, ``contexts``."""
        found: dict[str, int] = json.loads(self.driver.emulated_report())
        return found

    @property
    def held(self) -> dict[str, int]:
        """What has been made and not been given back."""
        counts = self.counts
        return {
            "allocations": counts["allocations"] - counts["frees"],
            "pinned": counts["pinned_allocations"] - counts["pinned_frees"],
            **{name: counts[name] for name in ("bytes", "streams", "graphs", "contexts")},
        }

    @property
    def violations(self) -> list[str]:
        """Each break of the rules."""
        said: bytes = self.driver.emulated_violations()
        return said.decode().splitlines()

    def forget_violations(self) -> None:
        """Begin anew."""
        self.driver.emulated_forget()

    def take_violations(self) -> list[str]:
        """Return them and begin anew: they were wanted."""
        found = self.violations
        self.forget_violations()
        return found

    def fail_allocation(self, number: int, count: int = 2) -> None:
        """Be out of memory at an allocation from now on (0: the next). pycuda tries each of them twice."""
        self.driver.emulated_fail(number, count)

    def limit(self, size: int) -> int:
        """Let the device have this many bytes; return how many it had."""
        return int(self.driver.emulated_capacity(size))

    def lose(self) -> None:
        """Lose the device: every call fails from now on."""
        self.driver.emulated_lose()

    def multiply(self, count: int) -> None:
        """Let there be so many devices; they share memory and context."""
        self.driver.emulated_devices(count)

    def find(self) -> None:
        """Have it back, which a real one only is in another process."""
        self.driver.emulated_find()

    def hang(self) -> Hanging:
        """Let nothing on the device end, until the hanging is released."""
        self.driver.emulated_hang(1)
        return Hanging(self.driver)

    def capturing(self, stream: int) -> bool:
        """Whether what is put on a stream, by its handle, becomes a graph."""
        return bool(self.driver.emulated_capturing(ctypes.c_void_p(stream)))

    @staticmethod
    def address(value: int) -> ctypes.c_uint64:
        """An address as the driver's functions take it."""
        return ctypes.c_uint64(value)

    def reach(self, address: int, size: int) -> bool:
        """Whether a kernel may touch these bytes of the device."""
        return bool(self.driver.emulated_reach(address, size))


class Hanging:
    """A device that hangs."""

    def __init__(self, driver: ctypes.CDLL) -> None:
        self._driver = driver

    def release(self) -> None:
        """Let it go on."""
        self._driver.emulated_hang(0)
