"""The tests that need a GPU, on the emulated driver: what they prove is said in ``tests/README.md``."""

from __future__ import annotations

import pytest

from tests.support.cuda.emulation import run_emulated

_PYTEST = ("-m", "pytest", "-q", "-ra", "-p", "no:xdist", "-p", "no:cacheprovider")


def run_tests(*arguments: str, **settings: str) -> None:
    """Run tests in a process on the emulated driver; all have to pass, none may be skipped."""
    done = run_emulated([*_PYTEST, *arguments], **settings)
    said = f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert done.returncode == 0, said
    assert "skipped" not in done.stdout, said


def test_on_the_emulated_driver() -> None:
    run_tests("tests/emulated", "--ignore", "tests/emulated/test_pipeline.py")


@pytest.mark.slow
def test_a_thousand_studies() -> None:
    run_tests("tests/emulated/test_pipeline.py")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["EmulatedTensorRt", "EmulatedTensorRtProper"])
def test_the_contract_of_the_backends(backend: str) -> None:
    """As TensorRT-RTX and as TensorRT, with a double for the runtime and the real builder for what is no network."""
    run_tests("tests/contract/test_backends.py", "-k", "tensorrt", backend=backend)
