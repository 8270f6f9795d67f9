"""One thread for the limits of many runs: each is broken off at its own, and none after it has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from appliance.backends.time_limit import TimeLimit


@pytest.fixture
def limit() -> Iterator[TimeLimit]:
    made = TimeLimit()
    yield made
    made.close()


def test_what_takes_too_long_is_broken_off(limit: TimeLimit) -> None:
    over = threading.Event()
    started = time.monotonic()
    with limit.running(0.05, over.set):
        assert over.wait(30)
    assert time.monotonic() - started >= 0.05


def test_a_short_limit_after_a_long_one(limit: TimeLimit) -> None:
    """The thread sleeps until the long one; the short one has to wake it."""
    never, over = threading.Event(), threading.Event()
    with limit.running(3600, never.set):
        pass
    with limit.running(0.05, over.set):
        assert over.wait(30)
    assert not never.is_set()


def test_a_long_limit_after_a_short_one_is_not_cut_short(limit: TimeLimit) -> None:
    """The thread wakes at the limit of the first, which has ended, and leaves the second alone."""
    first, second, third = threading.Event(), threading.Event(), threading.Event()
    with limit.running(0.05, first.set):
        pass
    with limit.running(3600, second.set):
        assert not second.wait(0.2)
    with limit.running(0.05, third.set):
        assert third.wait(30)
    assert not first.is_set()


def test_runs_that_end_in_time_are_left_alone(limit: TimeLimit) -> None:
    over = threading.Event()
    for _ in range(2000):
        with limit.running(60, over.set):
            pass
    assert not over.is_set()


def test_closing_ends_the_thread() -> None:
    before = set(threading.enumerate())
    TimeLimit().close()
    assert set(threading.enumerate()) == before
