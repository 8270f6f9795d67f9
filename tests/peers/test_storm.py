"""While others misbehave by the hundred, a good sender gets its images through. They come from another address."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.raw_peer import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    RawPeer,
    associate_request,
    p_data,
    store_command,
)
from tests.support.received_files import CT, EXPLICIT, data_set
from tests.support.reception import Reception
from tests.support.waiting import wait_for

BAD = "127.0.0.2"


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    reception = Reception(tmp_path / "state")
    yield reception
    reception.stop()
    assert not reception.fatal.is_set()
    assert reception.incoming() == []


class BadPeer(RawPeer):
    """Comes from an address of its own."""

    def __init__(self, port: int) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=15, source_address=(BAD, 0))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def good_sender(port: int, count: int = 5, start: int = 1) -> None:
    """Every image is taken."""
    with RawPeer(port) as peer:
        peer.associate()
        for number in range(start, start + count):
            peer.send(
                p_data(store_command(instance=f"1.2.3.9.{number}"), command=True, last=True),
                p_data(data_set(instance=f"1.2.3.9.{number}"), command=False, last=True),
            )
            assert peer.read_status() == 0
        peer.send(struct.pack(">BBII", 5, 0, 4, 0))
        assert peer.read()[0] == 6


def ends(peer: RawPeer) -> bool:
    """Whether the node has closed the connection; PDUs before that are read."""
    return peer.read_to_end() is not None


def test_two_hundred_idle_connections(reception: Reception) -> None:
    port = reception.start_node(max_connections=40)
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(BadPeer(port))
        good_sender(port)
        assert reception.node is not None
        # A few more: those that were let in, and are not known yet when the next one comes.
        wait_for(lambda: len(reception.node._open) < 60, what="those beyond the limit to have gone")


def test_a_connection_that_is_being_negotiated_is_not_the_one_to_go(reception: Reception) -> None:
    port = reception.start_node(max_connections=33)
    with RawPeer(port) as peer, ExitStack() as stack:
        peer.send(associate_request()[:50])
        for _ in range(100):
            stack.enter_context(BadPeer(port))
        peer.send(associate_request()[50:])
        assert peer.read()[0] == ASSOCIATE_AC


def test_a_hundred_associations_that_are_never_released(reception: Reception) -> None:
    port = reception.start_node(max_associations=12, max_associations_per_peer=8)
    with ExitStack() as stack:
        peers = [stack.enter_context(BadPeer(port)) for _ in range(100)]
        for peer in peers:
            peer.send(associate_request())
        answers = Counter(peer.read()[0] for peer in peers)
        assert answers == {ASSOCIATE_AC: 8, ASSOCIATE_RJ: 92}
        good_sender(port)


def test_idle_associations_take_no_processor(reception: Reception) -> None:
    port = reception.start_node()
    with ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(BadPeer(port)).associate()
        began, used = time.monotonic(), [0.0, 0.0]
        wait_for(lambda: time.monotonic() - began > 1.2)
        used[0] = time.process_time()
        threading.Event().wait(1.0)  # what is measured is that nothing happens
        used[1] = time.process_time()
        good_sender(port)
    # Looked at a thousand times a second, as the library does, they take more than a third of a core.
    assert used[1] - used[0] < 0.25


def test_a_byte_now_and_then_is_no_request(reception: Reception) -> None:
    """However patient the node is with PDUs, the time of the whole negotiation is limited."""
    port = reception.start_node(negotiation_timeout_s=0.5, pdu_timeout_s=60.0)
    with BadPeer(port) as peer:
        started = time.monotonic()
        dribble(peer, (bytes([byte]) for byte in associate_request()))
        assert time.monotonic() - started < 5
    good_sender(port)


def dribble(peer: RawPeer, pieces: Iterable[bytes]) -> None:
    """A piece at a time, until the node has had enough."""
    peer.connection.settimeout(0.03)
    for piece in pieces:
        try:
            peer.send(piece)
            if not peer.connection.recv(100):
                return
        except TimeoutError:
            continue
        except OSError:
            return


@pytest.mark.parametrize("command", [True, False], ids=["command", "data-set"])
def test_a_message_that_arrives_slower_than_it_may(
    reception: Reception, command: bool, caplog: pytest.LogCaptureFixture
) -> None:
    port = reception.start_node(min_bytes_per_s=1_000_000, network_timeout_s=1.0)
    content = store_command() if command else data_set()
    with BadPeer(port) as peer:
        peer.associate()
        if not command:
            peer.send(p_data(store_command(), command=True, last=True))
        dribble(peer, (p_data(content[at : at + 1], command=command, last=False) for at in range(100)))
    wait_for(lambda: reception.incoming() == [])
    wait_for(lambda: reception.metrics.associations.labels("aborted")._value.get() == 1)
    if not command:
        assert reception.count("too-slow") == 1
        assert "dicom.min_bytes_per_s" in caplog.text
    good_sender(port)


def test_a_slow_sender_that_is_fast_enough(reception: Reception) -> None:
    port = reception.start_node(min_bytes_per_s=10, network_timeout_s=0.2)
    content = data_set()
    with RawPeer(port) as peer:
        peer.associate()
        peer.send(p_data(store_command(), command=True, last=True))
        began = time.monotonic()
        for at in range(0, len(content), 20):
            peer.send(p_data(content[at : at + 20], command=False, last=at + 20 >= len(content)))
            wait_for(lambda at=at: time.monotonic() - began > at / 300)
        assert time.monotonic() - began > 0.5
        assert peer.read_status() == 0


def ten_thousand_contexts() -> bytes:
    context = b"\x01\0\0\0" + struct.pack(">BBH", 0x30, 0, len(CT)) + CT.encode()
    context += struct.pack(">BBH", 0x40, 0, len(EXPLICIT)) + EXPLICIT.encode()
    body = associate_request()[6:74] + (struct.pack(">BBH", 0x20, 0, len(context)) + context) * 10_000
    return struct.pack(">BBI", 1, 0, len(body)) + body


def giant_user_information() -> bytes:
    body = associate_request()[6:] + struct.pack(">BBH", 0x50, 0, 65_000) + b"\x58\0\0\0" * 16_250
    return struct.pack(">BBI", 1, 0, len(body)) + body


@pytest.mark.parametrize("request_of", [ten_thousand_contexts, giant_user_information])
def test_requests_out_of_all_bounds(
    reception: Reception, request_of: Callable[[], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    port = reception.start_node()
    used = time.process_time()
    for _ in range(5):
        with BadPeer(port) as peer:
            peer.send(request_of())
            assert ABORT not in peer.read_to_end()[1:]
    assert time.process_time() - used < 2
    assert "the sender has to be mended" in caplog.text
    good_sender(port)


def test_a_data_set_in_fragments_of_one_byte(reception: Reception) -> None:
    port = reception.start_node()
    content = data_set(pixels=bytes(20_000))
    fragments = b"".join(
        p_data(content[at : at + 1], command=False, last=at == len(content) - 1) for at in range(len(content))
    )
    with BadPeer(port) as peer:
        peer.associate()
        used = time.process_time()
        peer.send(p_data(store_command(), command=True, last=True), fragments)
        assert peer.read_status() == 0
    assert time.process_time() - used < 3, "microseconds for each"


def test_quick_connects(reception: Reception) -> None:
    port = reception.start_node()
    stopping = threading.Event()
    connected = []

    def connect() -> None:
        while not stopping.is_set():
            try:
                with BadPeer(port):
                    connected.append(1)
            except OSError:
                continue

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        wait_for(lambda: len(connected) > 50)
        good_sender(port, 20)
    finally:
        stopping.set()
        thread.join()
    assert reception.node is not None
    wait_for(lambda: not reception.node._open, what="the end of all connections")


def service_requests() -> list[bytes]:
    """Requests of other services (PS3.7 annex E.1), in a context that is for storage."""
    replaced = struct.pack("<HHIH", 0, 0x0100, 2, 0x0001)
    return [
        store_command(with_data_set=False).replace(replaced, struct.pack("<HHIH", 0, 0x0100, 2, field))
        for field in (0x0010, 0x0020, 0x0021, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150, 0x8001)
    ]


@pytest.mark.parametrize("command", service_requests(), ids=lambda command: command[0x2E:0x32].hex())
def test_other_services_in_a_storage_context(reception: Reception, command: bytes) -> None:
    port = reception.start_node(network_timeout_s=1.0)
    with BadPeer(port) as peer:
        peer.associate()
        peer.send(p_data(command, command=True, last=True), struct.pack(">BBII", 5, 0, 4, 0))
        peer.read_to_end()
    good_sender(port)
