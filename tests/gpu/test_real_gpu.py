"""The real runtime on a real GPU: the contract, the memory, and the acceptance that a customer runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from appliance.backends.cuda_device import memory_used
from tests.support.cuda.backend import ConvertedTensorRt
from tests.support.cuda.emulation import REPOSITORY, with_backend
from tests.support.networks import network_spec, write_slow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SIZE = 64
SHAPE = (1, 1, SIZE, SIZE, SIZE)


def test_the_contract_of_the_backends() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "tests/contract/test_backends.py", "-k", "tensorrt"],
        env=with_backend("ConvertedTensorRt"), cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_memory_is_got_once_and_given_back(tmp_path: Path) -> None:
    """Over runs nothing is allocated; after a first session, whose kernels the driver keeps, closing gives all back."""
    backend = ConvertedTensorRt(threads=1, cache=tmp_path / "cache")
    model = write_slow(tmp_path / "model.onnx", SIZE, 4)
    tensor = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    with backend.open(model, network_spec(SHAPE)):
        pass
    closed = memory_used()
    for _ in range(10):
        with backend.open(model, network_spec(SHAPE)) as session:
            first = session.run(tensor, time_limit_s=60)
            at_work = memory_used()
            for _ in range(100):
                assert np.array_equal(session.run(tensor, time_limit_s=60), first)
            assert abs(memory_used() - at_work) < 4 << 20
    assert abs(memory_used() - closed) < 16 << 20


def test_the_acceptance() -> None:
    """Engines of every package built and verified here, timed, and looked at for leaks; ``-rP`` shows the table."""
    state = REPOSITORY / ".cache" / "state"
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "models", "bench", "--all", "--acceptance", "--state-dir", str(state)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
