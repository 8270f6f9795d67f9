"""The emulated driver: the real pycuda runs on it, and what a GPU would punish sometimes it names every time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pycuda.driver as cuda
import pytest

from tests.support.cuda.device import EmulatedDevice


@pytest.fixture(autouse=True)
def context(device: EmulatedDevice) -> Iterator[None]:
    """The primary context, current in the thread of the test."""
    cuda.init()
    retained = cuda.Device(0).retain_primary_context()
    retained.push()
    yield
    cuda.Context.pop()
    retained.detach()


def test_it_is_a_device() -> None:
    found = cuda.Device(0)
    assert (cuda.Device.count(), found.name(), found.compute_capability()) == (1, "Emulated GPU", (8, 9))
    free, total = cuda.mem_get_info()
    assert free == total == found.total_memory()


def test_copies_happen_when_the_stream_is_waited_for(device: EmulatedDevice) -> None:
    """Whoever reads a result too early reads what was there before, every time."""
    stream = cuda.Stream(1)
    given, taken = (cuda.pagelocked_empty(20, np.float32) for _ in range(2))
    given[...], taken[...] = 3, 0
    memory = cuda.mem_alloc(given.nbytes)
    cuda.memcpy_htod_async(memory, given, stream)
    cuda.memcpy_dtoh_async(taken, memory, stream)
    assert not taken.any()
    stream.synchronize()
    assert (taken == 3).all()
    memory.free()
    given.base.free()
    taken.base.free()


def test_a_copy_out_of_bounds_is_named(device: EmulatedDevice) -> None:
    stream, memory = cuda.Stream(1), cuda.mem_alloc(80)
    host = cuda.pagelocked_empty(100, np.uint8)
    with pytest.raises(cuda.Error):
        cuda.memcpy_htod_async(memory, host, stream)
    assert device.take_violations() == ["copy to the device: 100 bytes where 80 are left"]
    memory.free()
    host.base.free()


def test_use_after_free_is_named_also_for_what_was_put_on_the_stream_before(device: EmulatedDevice) -> None:
    stream, memory = cuda.Stream(1), cuda.mem_alloc(80)
    address = int(memory)
    host = cuda.pagelocked_empty(80, np.uint8)
    cuda.memcpy_htod_async(memory, host, stream)
    memory.free()
    with pytest.raises(cuda.Error):
        stream.synchronize()
    assert device.take_violations() == ["copy to the device: use after free, 80 bytes"]
    assert not device.reach(address, 4)
    assert device.take_violations() == ["kernel: use after free, 4 bytes"]
    device.find()  # an illegal address has ended the context
    host.base.free()


def test_freeing_twice_is_named(device: EmulatedDevice) -> None:
    memory = cuda.mem_alloc(80)
    assert device.driver.cuMemFree_v2(device.address(int(memory))) == 0
    memory.free()
    assert device.take_violations() == ["free: twice, or of what was never allocated"]


def test_asynchronous_copies_need_pinned_memory(device: EmulatedDevice) -> None:
    stream, memory = cuda.Stream(1), cuda.mem_alloc(80)
    cuda.memcpy_htod_async(memory, np.zeros(80, np.uint8), stream)
    stream.synchronize()
    assert device.take_violations() == ["asynchronous copy of 80 bytes from or to memory that is not pinned"]
    memory.free()


def test_the_nth_allocation_fails(device: EmulatedDevice) -> None:
    device.fail_allocation(1)
    first = cuda.mem_alloc(8)
    with pytest.raises(cuda.MemoryError):
        cuda.mem_alloc(8)
    second = cuda.mem_alloc(8)
    first.free()
    second.free()


def test_its_memory_is_limited(device: EmulatedDevice) -> None:
    before = device.limit(1000)
    memory = cuda.mem_alloc(900)
    with pytest.raises(cuda.MemoryError):
        cuda.mem_alloc(200)
    memory.free()
    device.limit(before)


def test_a_lost_device_stays_lost(device: EmulatedDevice) -> None:
    stream, memory = cuda.Stream(1), cuda.mem_alloc(80)
    device.lose()
    for call in (stream.synchronize, lambda: cuda.mem_alloc(8)):
        with pytest.raises(cuda.Error, match="launch failure"):
            call()
    device.find()
    memory.free()


def test_what_is_not_emulated_says_so() -> None:
    with pytest.raises(cuda.Error, match="not supported"):
        cuda.Context.get_cache_config()
