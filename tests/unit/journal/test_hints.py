"""Hints wake the roles; that one may be lost is said in the interface."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.journal.hints import HintSocket, send_hint


@contextmanager
def listening(folder: Path, name: str) -> Iterator[HintSocket]:
    ear = HintSocket(folder, name)
    try:
        yield ear
    finally:
        ear.close()


def test_a_hint_wakes_who_waits(tmp_path: Path) -> None:
    with listening(tmp_path, "worker-0") as ear:
        sender = threading.Timer(0.05, send_hint, (tmp_path, "worker"))
        sender.start()
        begin = time.monotonic()
        assert ear.wait(10)
        assert time.monotonic() - begin < 5
        sender.join()


def test_without_a_hint_the_time_is_waited(tmp_path: Path) -> None:
    with listening(tmp_path, "worker-0") as ear:
        begin = time.monotonic()
        assert not ear.wait(0.1)
        assert time.monotonic() - begin >= 0.1
        assert not ear.wait(-1)  # what was due in the past


def test_a_hint_that_came_before_is_not_lost(tmp_path: Path) -> None:
    with listening(tmp_path, "worker-0") as ear:
        send_hint(tmp_path, "worker")
        assert ear.wait(0)
        assert not ear.wait(0)


def test_hints_that_pile_up_count_as_one_and_never_block(tmp_path: Path) -> None:
    """A worker in a long inference does not listen; reception must not wait for it."""
    with listening(tmp_path, "worker-0") as ear:
        for _ in range(2000):
            send_hint(tmp_path, "worker")
        assert ear.wait(0)
        assert not ear.wait(0)
        send_hint(tmp_path, "worker")
        assert ear.wait(0)


def test_all_of_a_prefix_are_woken_and_no_other(tmp_path: Path) -> None:
    with (
        listening(tmp_path, "worker-0") as first,
        listening(tmp_path, "worker-1") as second,
        listening(tmp_path, "sender-pacs") as other,
    ):
        send_hint(tmp_path, "worker")
        assert first.wait(0) and second.wait(0)
        assert not other.wait(0)


def test_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    """Addresses hold 108 bytes; state folders may be deeper."""
    folder = tmp_path.joinpath(*["a-rather-long-name-of-a-folder"] * 5, "run")
    assert len(os.fsencode(folder)) > 150
    with listening(folder, "worker-0") as ear:
        send_hint(folder, "worker")
        assert ear.wait(0)


def test_nobody_listens(tmp_path: Path) -> None:
    send_hint(tmp_path / "never-made", "worker")
    send_hint(tmp_path, "worker")
    with listening(tmp_path, "worker-0"):
        pass
    send_hint(tmp_path, "worker")  # its socket's name is left behind


def test_the_dead_keep_no_hint_from_the_living(tmp_path: Path) -> None:
    with listening(tmp_path, "worker-0"):
        pass
    with listening(tmp_path, "worker-1") as ear:
        send_hint(tmp_path, "worker")
        assert ear.wait(0)


def test_the_next_life_takes_the_name_over(tmp_path: Path) -> None:
    first = HintSocket(tmp_path, "worker-0")
    with listening(tmp_path, "worker-0") as ear:
        send_hint(tmp_path, "worker")
        assert ear.wait(0)
        assert not first.wait(0)
    first.close()


@pytest.mark.parametrize("action", ["listen", "send"])
def test_no_descriptor_is_left_behind(tmp_path: Path, action: str) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        if action == "listen":
            HintSocket(tmp_path, "worker-0").close()
        else:
            send_hint(tmp_path, "worker")
            send_hint(tmp_path / "absent", "worker")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
