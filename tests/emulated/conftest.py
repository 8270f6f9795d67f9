"""Fixtures of the tests that run on the emulated driver."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.cuda.device import EmulatedDevice
from tests.support.cuda.emulation import INSIDE

# The driver is chosen when a process starts: in any other process there is nothing to test.
collect_ignore_glob = [] if INSIDE in os.environ else ["test_*.py"]


@pytest.fixture
def device() -> Iterator[EmulatedDevice]:
    """The device; what a test took from it has to be given back, and its rules kept."""
    found = EmulatedDevice()
    before = found.held
    found.forget_violations()
    yield found
    assert found.violations == []
    assert found.held == before
