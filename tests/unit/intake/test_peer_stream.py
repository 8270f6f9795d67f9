"""What a peer sends, at the borders of the buffer."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from appliance.intake.peer_stream import _BUFFER_BYTES, EndOfStream, PeerStream


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, PeerStream]]:
    listener = socket.create_server(("127.0.0.1", 0))
    peer = socket.create_connection(listener.getsockname())
    connection, _ = listener.accept()
    stream = PeerStream(connection, 10.0)
    stream.begin_pdu()
    yield peer, stream
    for each in (peer, connection, listener):
        each.close()


def test_nothing_is_lost_or_doubled_however_it_is_taken(ends: tuple[socket.socket, PeerStream]) -> None:
    peer, stream = ends
    content = os.urandom(5 * _BUFFER_BYTES)
    sender = threading.Thread(target=peer.sendall, args=(content,))
    sender.start()
    taken = bytearray()
    size = 1
    while len(taken) < len(content):
        size = min(size * 3 % 70_001, len(content) - len(taken)) or 1
        assert bytes(stream.peek(min(size, 4000))) == content[len(taken) : len(taken) + min(size, 4000)]
        for piece in stream.pieces(size):
            taken += piece
    sender.join()
    assert bytes(taken) == content


def test_bytes_are_given_back_in_front_of_a_full_buffer(ends: tuple[socket.socket, PeerStream]) -> None:
    """One byte of a fragment, and behind it as much as fits: the head of the rest of its PDU has to fit as well."""
    peer, stream = ends
    content = os.urandom(2 * _BUFFER_BYTES)
    sender = threading.Thread(target=peer.sendall, args=(content,))
    sender.start()
    stream.peek(_BUFFER_BYTES)
    stream.skip(1)
    stream.give_back(b"header")
    assert bytes(stream.recv(6)) == b"header"
    assert bytes(stream.recv(len(content) - 1)) == content[1:]
    sender.join()


def test_the_end_is_not_taken_for_a_full_buffer(ends: tuple[socket.socket, PeerStream]) -> None:
    peer, stream = ends
    peer.sendall(b"last")
    peer.close()
    assert bytes(stream.peek(4)) == b"last"
    with pytest.raises(EndOfStream):
        stream.peek(5)
    assert bytes(stream.recv(10)) == b"last"
