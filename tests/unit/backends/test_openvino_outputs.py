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


def test_also_where_the_shape_of_the_output_depends_on_the_input(tmp_path: Path) -> None:
    """From the second run of a shape on; another shape in between changes no number."""
    model = write_two_channels(tmp_path / "model.onnx", (1, 1, "rows", "columns"))
    backend = OpenVinoBackend(threads=1, cache=tmp_path / "cache")
    with backend.open(model, network_spec((1, 1, 32, 32), min_shape=(1, 1, 8, 6))) as session:
        other = np.ones((1, 1, 32, 16), np.float32)
        first = session.run(TENSOR, time_limit_s=60).copy()
        assert address(session) == address(session)
        for _ in range(2):
            assert session.run(other, time_limit_s=60).shape == (1, 2, 32, 16)
        assert np.array_equal(session.run(TENSOR, time_limit_s=60), first)


def test_memory_that_somebody_has_is_not(session: Session) -> None:
    held = session.run(TENSOR, time_limit_s=60)[0, 1, ::2]
    start = held.ctypes.data
    others = {address(session) for _ in range(3)}
    assert not any(other <= start < other + 2 * TENSOR.nbytes for other in others)
