"""The tests that need a GPU, on the emulated driver: what they prove is said in ``tests/README.md``."""

from __future__ import annotations

from tests.support.cuda.emulation import run_emulated

_PYTEST = ("-m", "pytest", "-q", "-ra", "-p", "no:xdist", "-p", "no:cacheprovider")


def run_tests(*arguments: str) -> None:
    """Run tests in a process on the emulated driver; all have to pass, none may be skipped."""
    done = run_emulated([*_PYTEST, *arguments])
    said = f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert done.returncode == 0, said
    assert "skipped" not in done.stdout, said


def test_on_the_emulated_driver() -> None:
    run_tests("tests/emulated")
