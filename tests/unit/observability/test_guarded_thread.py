"""A thread that dies ends its role."""

from __future__ import annotations

import logging
import threading

import pytest

from appliance.observability.guarded_thread import GuardedThread


def test_a_thread_that_returns_ends_nothing() -> None:
    fatal, done = threading.Event(), threading.Event()
    thread = GuardedThread("a", done.set, fatal.set)
    thread.start()
    thread.end(10)
    assert done.is_set()
    assert not fatal.is_set()


def test_a_thread_that_raises_ends_the_role_and_logs_why(caplog: pytest.LogCaptureFixture) -> None:
    fatal = threading.Event()

    def fail() -> None:
        raise RuntimeError("the reason")

    with caplog.at_level(logging.ERROR, logger="appliance.observability.guarded_thread"):
        thread = GuardedThread("drop folder", fail, fatal.set)
        thread.start()
        thread.end(10)
    assert fatal.is_set()
    assert "drop folder failed, the role ends" in caplog.text
    assert "the reason" in caplog.text


def test_ending_a_thread_that_never_started() -> None:
    GuardedThread("a", lambda: None, lambda: None).end(0.1)


def test_waiting_for_a_thread_has_an_end() -> None:
    stop = threading.Event()
    thread = GuardedThread("a", lambda: stop.wait(30) and None, lambda: None)
    thread.start()
    thread.end(0.05)
    assert thread.is_alive()
    assert thread.daemon  # so that it keeps no role from ending
    stop.set()
    thread.end(10)
    assert not thread.is_alive()
