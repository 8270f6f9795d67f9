"""One TCP connection with deadlines, that another thread may cut."""

from __future__ import annotations

import select
import socket
import threading
import time


class Connection:
    """Used by one thread, from ``connect`` to ``close``.

    Every wait has an end, whatever the peer does: dribbles its answer byte by byte, or takes nothing in. All methods
    raise ``OSError``: ``TimeoutError`` when the time is over, ``ConnectionError`` when the other side is gone.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._is_cut = False

    def connect(self, host: str, port: int, timeout_s: float) -> None:
        """Connect to the first address of ``host`` that answers."""
        failure: OSError = ConnectionError("the host has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            candidate = socket.socket(family, kind, protocol)
            self._hold(candidate)
            try:
                candidate.settimeout(timeout_s)
                candidate.connect(address)
            except OSError as error:
                self.close()
                failure = error
                continue
            # Small PDUs are not held back for the acknowledgement of the one before (Nagle).
            candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return
        raise failure

    def send(self, data: bytes | bytearray, timeout_s: float) -> None:
        """Send all of ``data``."""
        self._open.settimeout(timeout_s)
        self._open.sendall(data)

    def receive(self, count: int, deadline: float) -> bytes:
        """Return exactly ``count`` bytes; ``deadline`` is by ``time.monotonic``."""
        received = bytearray()
        while len(received) < count:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("timed out")
            self._open.settimeout(left_s)
            # Peers such as dcmtk write the head of an answer and then its body, and hold the body back until the
            # head is acknowledged: 40 ms per object, were that delayed as usual. The kernel forgets the option.
            self._open.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            piece = self._open.recv(count - len(received))
            if not piece:
                raise ConnectionResetError("the connection was closed by the other side")
            received += piece
        return bytes(received)

    def has_news(self) -> bool:
        """Say whether bytes, or the end of the connection, wait to be received."""
        poll = select.poll()
        poll.register(self._open, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close; closing again does nothing."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def cut(self) -> None:
        """From another thread: make what waits, and all that follows, raise."""
        with self._lock:
            self._is_cut = True
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # not connected yet, or not any more

    @property
    def _open(self) -> socket.socket:
        if self._socket is None or self._is_cut:
            raise ConnectionAbortedError("the connection is closed on this side")
        return self._socket

    def _hold(self, candidate: socket.socket) -> None:
        with self._lock:
            if self._is_cut:
                candidate.close()
                raise ConnectionAbortedError("the connection is closed on this side")
            self._socket = candidate
