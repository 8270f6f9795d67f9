"""Real devices only."""

from __future__ import annotations

import os

import pytest

from appliance.backends.cuda_device import CudaDevice, find_device
from appliance.backends.tensorrt_backend import TensorRtBackend
from tests.support.cuda.emulation import INSIDE


@pytest.fixture(scope="session", autouse=True)
def gpu() -> CudaDevice:
    """The GPU of this machine."""
    reason = "the driver is emulated" if INSIDE in os.environ else TensorRtBackend.unavailable("float32")
    if reason is not None:
        pytest.skip(reason)
    found = find_device()
    assert found is not None
    return found
