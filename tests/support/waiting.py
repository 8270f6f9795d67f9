"""Waiting on conditions instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], timeout_s: float = 10.0, *, what: str = "") -> T:
    """Return the first true value of ``condition``.

    Raises
    ------
    AssertionError
        It did not become true in time; the message holds ``what`` and the last value.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or 'the condition'} did not become true in {timeout_s:g} s: {value!r}")
        time.sleep(0.01)
