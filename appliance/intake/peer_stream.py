"""The bytes that a peer sends: read in large pieces, with a limit on the time of each PDU."""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Iterator
from typing import Final

_BUFFER_BYTES: Final = 256 * 1024
_GIVEN_BACK_BYTES: Final = 6
"""Room for the head of a PDU in front of a full buffer."""
_MOST_DRAINED: Final = 64
MAX_PDU_BYTES: Final = 1024 * 1024
"""A longer PDU is not read: a request with 128 contexts needs less, and P-DATA has the negotiated limit."""


class PeerStream:
    """Reads from a peer's socket; the library and the fast lane take turns, on one thread.

    ``recv`` stands in for ``AssociationSocket.recv``, which believes any length up to 4 GiB and waits for ever for the
    rest of a PDU. An ``OSError`` is what the library takes for a lost connection (PS3.8 table 9-10, Evt17).

    Parameters
    ----------
    timeout_s
        How long one PDU may take from its first byte to its last.

    Attributes
    ----------
    until
        When whatever is read has to be there at the latest, in seconds of ``time.monotonic``.
    """

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._deadline = 0.0
        self.until = math.inf
        self._view = memoryview(bytearray(_BUFFER_BYTES + _GIVEN_BACK_BYTES))
        self._start = self._end = 0

    @property
    def buffered(self) -> int:
        """How many bytes have been read and not yet taken."""
        return self._end - self._start

    def wait(self, timeout_s: float) -> bool:
        """Wait until there is something to read, the end of the connection included."""
        if self.buffered:
            return True
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def begin_pdu(self) -> None:
        """From now on, the time of a PDU is counted."""
        self._deadline = min(time.monotonic() + self._timeout_s, self.until)

    def peek(self, count: int) -> memoryview:
        """The next ``count`` bytes, which stay; valid until the next read.

        Raises
        ------
        OSError
            They do not come: the time is over, or the peer has closed the connection.
        """
        if self._start + count > _BUFFER_BYTES:
            self._view[: self.buffered] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, self.buffered
        while self.buffered < count:
            self._read()
        return self._view[self._start : self._start + count]

    def skip(self, count: int) -> None:
        """Take bytes that have been looked at."""
        self._start += count
        if self._start == self._end:
            self._start = self._end = 0

    def give_back(self, content: bytes) -> None:
        """Put the head of a PDU in front of what comes next."""
        rest = content + bytes(self._view[self._start : self._end])
        self._start, self._end = 0, len(rest)
        self._view[: len(rest)] = rest

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next ``count`` bytes in pieces as they arrive, each valid until the next; raises as ``peek`` does."""
        while count:
            if not self.buffered:
                self._read()
            size = min(count, self.buffered)
            piece = self._view[self._start : self._start + size]
            self.skip(size)
            yield piece
            count -= size

    def recv(self, nr_bytes: int) -> bytearray:
        """Return the next ``nr_bytes`` bytes, fewer when the peer has closed the connection: for the library.

        Raises
        ------
        OSError
            More than a PDU may hold was asked for, or they did not all arrive within the time limit.
        """
        if nr_bytes > MAX_PDU_BYTES:
            raise ConnectionAbortedError("the peer announces a PDU that is longer than any may be")
        self.begin_pdu()
        received = bytearray()
        try:
            for piece in self.pieces(nr_bytes):
                received += piece
        except EndOfStream:
            pass
        return received

    def send(self, content: bytes) -> None:
        """Send to the peer; raises ``OSError`` when it does not take it in time."""
        self._connection.settimeout(self._timeout_s)
        self._connection.sendall(content)

    def drain(self) -> None:
        """Drop what has come: a connection that is closed with bytes unread resets, and the last answer with it."""
        self._start = self._end = 0
        self._connection.settimeout(0)
        try:
            for _ in range(_MOST_DRAINED):
                if not self._connection.recv_into(self._view):
                    break
        except OSError:
            pass  # nothing more is there now, or the peer has gone

    def _read(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the peer stopped in the middle of a PDU")
        self._connection.settimeout(left_s)
        arrived = self._connection.recv_into(self._view[self._end : _BUFFER_BYTES])
        if not arrived:
            raise EndOfStream("the peer has closed the connection")
        # A sender that does not switch Nagle's algorithm off keeps the end of an image until what went before is
        # acknowledged, which the kernel puts off for 40 ms: asked for at once, 20 images a second become hundreds. The
        # kernel forgets the wish by itself (tcp(7)).
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._end += arrived


class EndOfStream(ConnectionError):
    """The peer has closed the connection."""
