"""The network: what a peer sends from the first byte of its connection to the last."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.logs import PLANTED_ROOT
from tests.fuzz.target import Target
from tests.support.raw_peer import RawPeer, p_data, store_command
from tests.support.received_files import CT, data_set
from tests.support.reception import Reception
from tests.support.waiting import wait_for

_ANSWER_S = 5.0
_PATIENCE_S = 0.03
"""A node that has still to answer must not be told too soon that its peer has gone."""


class Associated(Target):
    """A case is all that a peer sends. The node answers it, or ends the connection, and is as it was before.

    Its first PDU goes ahead, as a peer has to wait for the answer to its request; then come the rest and the end.
    """

    name = "association"
    hang_s = 20.0
    memory_mib = 128

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._reception = Reception(folder, max_instance_bytes=256 * 1024)
        self._port = self._reception.start_node(network_timeout_s=2.0, negotiation_timeout_s=2.0, pdu_timeout_s=2.0)
        self._good = 0

    def run(self, case: bytes) -> None:
        """Send it, and read until the node has closed the connection."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=_ANSWER_S) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            first = 6 + int.from_bytes(case[2:6], "big")
            try:
                if case[:1] == b"\x01" and first < len(case):
                    connection.sendall(case[:first])
                    connection.recv(65536)
                    case = case[first:]
                connection.sendall(case)
                if not _closed_within(connection, _PATIENCE_S):
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(_ANSWER_S)
                    while connection.recv(65536):
                        pass
            except TimeoutError:
                raise AssertionError("the node neither answers nor closes the connection") from None
            except OSError:
                pass  # it has closed the connection, with bytes of ours unread

    def check(self) -> None:
        """A good sender gets its image through, and nothing is left of those before."""
        self._good += 1
        instance = f"{PLANTED_ROOT}.1.{self._good}"
        with RawPeer(self._port) as peer:
            peer.associate()
            peer.send(p_data(store_command(CT, instance), command=True, last=True))
            content = data_set(instance=instance, series=f"{PLANTED_ROOT}.2", study=f"{PLANTED_ROOT}.3")
            peer.send(p_data(content, command=False, last=True))
            assert peer.read_status() == 0
            peer.send(struct.pack(">BBII", 5, 0, 4, 0))
            assert peer.read()[0] == 6
        wait_for(lambda: not _association_threads(), what="the end of the threads of all associations")
        wait_for(lambda: not self._reception.incoming(), what="an empty incoming")
        assert not self._reception.fatal.is_set()

    def stop(self) -> None:
        """Stop the node."""
        self._reception.stop()


def _closed_within(connection: socket.socket, quiet_s: float) -> bool:
    """Read answers; whether the node closes the connection before it is quiet for this long."""
    connection.settimeout(quiet_s)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    return True


def _association_threads() -> list[str]:
    return [
        thread.name
        for thread in threading.enumerate()
        if "AcceptorThread" in thread.name or "run_reactor" in thread.name
    ]


def _pdus(case: bytearray) -> list[tuple[int, int]]:
    at, found = 0, []
    while at + 6 <= len(case):
        end = at + 6 + int.from_bytes(case[at + 2 : at + 6], "big")
        if end > len(case):
            break
        found.append((at, end))
        at = end
    return found


def _rearrange(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    """A PDU is left out, doubled or moved."""
    found = _pdus(case)
    if found:
        start, end = rng.choice(found)
        piece = case[start:end]
        if rng.random() < 0.5:
            del case[start:end]
        at = min(rng.choice(found)[0], len(case))
        case[at:at] = piece * rng.choice((0, 1, 2, 20))


def _inside(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    """Something within a PDU is another, and its length is right again."""
    found = _pdus(case)
    if found:
        start, end = rng.choice(found)
        body = case[start + 6 : end]
        at = rng.randrange(len(body) + 1)
        size = rng.choice((0, 1, 2, 4))
        body[at : at + size] = rng.choice((rng.randbytes(size), b"\xff" * size, bytes(size), rng.randbytes(300)))
        case[start:end] = case[start : start + 2] + struct.pack(">I", len(body)) + body


def _items(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    """An item of the association request, many times over, or of another kind."""
    found = _pdus(case)
    if not found or case[0] != 1 or found[0][1] < 80:
        return
    at, items = 74, []
    while at + 4 <= found[0][1]:
        end = at + 4 + int.from_bytes(case[at + 2 : at + 4], "big")
        items.append((at, min(end, found[0][1])))
        at = end
    start, end = rng.choice(items)
    piece = bytearray(case[start:end])
    piece[0] = rng.choice((piece[0], 0x10, 0x20, 0x21, 0x30, 0x40, 0x50, 0x51, 0x53, 0x54, 0x56, 0x57, 0x58, 0x59))
    before = len(case)
    case[start:end] = piece * rng.choice((0, 1, 2, 127, 128, 500))
    case[2:6] = struct.pack(">I", found[0][1] - 6 + len(case) - before)


def _split(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    """A fragment becomes many small ones."""
    found = [(start, end) for start, end in _pdus(case) if case[start] == 4 and end - start > 13]
    if found:
        start, end = rng.choice(found)
        context, control, content = case[start + 10], case[start + 11], bytes(case[start + 12 : end])
        size = rng.choice((1, 2, 7, 100))
        pieces = [content[at : at + size] for at in range(0, min(len(content), 2000 * size), size)]
        new = b"".join(
            p_data(
                piece, command=bool(control & 1), last=bool(control & 2) and number == len(pieces) - 1, context=context
            )
            for number, piece in enumerate(pieces)
        )
        case[start:end] = new


Associated.steps = (_rearrange, _inside, _inside, _items, _split)
