"""The memory of an output is used again, but only once nobody has it any more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from appliance.backends.base import Session
from appliance.backends.openvino_backend import OpenVinoBackend
from tests.support.networks import network_spec, write_two_channels

SPEC = network_spec()
TENSOR = np.ones(SPEC.input_shape, np.float32)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    backend = OpenVinoBackend(threads=1, cache=tmp_path / "cache")
    return backend.open(write_two_channels(tmp_path / "model.onnx"), SPEC)


def address(session: Session) -> int:
    """Where the next output comes to lie."""
    return session.run(TENSOR, time_limit_s=60).ctypes.data


def test_memory_that_nobody_has_is_used_again(session: Session) -> None:
    assert address(session) == address(session)


def test_memory_that_somebody_has_is_not(session: Session) -> None:
    held = session.run(TENSOR, time_limit_s=60)[0, 1, ::2]
    start = held.ctypes.data
    others = {address(session) for _ in range(3)}
    assert not any(other <= start < other + 2 * TENSOR.nbytes for other in others)
