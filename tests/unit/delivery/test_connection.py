"""The connection's deadlines and its end from outside."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from appliance.delivery.connection import Connection
from tests.support.peers import RawAcceptor
from tests.support.ports import free_port


def _silent(connection: socket.socket) -> None:
    connection.settimeout(10)
    while connection.recv(65536):
        pass


def test_a_silent_peer() -> None:
    with RawAcceptor(_silent) as peer:
        connection = Connection()
        connection.connect("127.0.0.1", peer.port, 5)
        assert not connection.has_news()
        with pytest.raises(TimeoutError):
            connection.receive(1, time.monotonic() + 0.05)
        with pytest.raises(TimeoutError):
            connection.receive(1, time.monotonic() - 1)
        connection.close()
        connection.close()


def test_cut_wakes_who_waits() -> None:
    with RawAcceptor(_silent) as peer:
        connection = Connection()
        connection.connect("127.0.0.1", peer.port, 5)
        timer = threading.Timer(0.1, connection.cut)
        timer.start()
        start = time.monotonic()
        with pytest.raises(ConnectionError):
            connection.receive(1, start + 30)
        assert time.monotonic() - start < 5
        with pytest.raises(ConnectionAbortedError):
            connection.send(b"more", 1)
        timer.join()
        connection.close()


def test_cut_before_it_connects() -> None:
    with RawAcceptor(_silent) as peer:
        connection = Connection()
        connection.cut()
        with pytest.raises(ConnectionAbortedError):
            connection.connect("127.0.0.1", peer.port, 5)
        assert peer.connections == 0


def test_nobody_listens() -> None:
    connection = Connection()
    with pytest.raises(ConnectionRefusedError):
        connection.connect("127.0.0.1", free_port(), 5)
    with pytest.raises(OSError, match="closed"):
        connection.has_news()
