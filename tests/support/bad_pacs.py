"""A storage SCP of raw bytes that goes wrong at a chosen point, and is well afterwards (PS3.8 section 9.3)."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.support.peers import RawAcceptor, association_acceptance, receive_pdu
from tests.support.raw_peer import p_data
from tests.support.received_files import IMPLICIT, element

STALL, CLOSE, RESET, NOISE = "stalls", "closes", "resets", "talks nonsense"
MANNERS = (STALL, CLOSE, RESET, NOISE)
OTHER_MESSAGE = "answers another message"
"""Where it should answer."""

CONNECTED, ACCEPTING, ACCEPTED = "when connected", "in the middle of its acceptance", "once it has accepted"
REQUEST, STORED, ANSWERING = "in the middle of an object", "before its answer", "in the middle of its answer"
ANSWERED, RELEASING = "after its answer", "at the release"
POINTS = (CONNECTED, ACCEPTING, ACCEPTED, REQUEST, STORED, ANSWERING, ANSWERED, RELEASING)

P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 4, 5, 6, 7


@dataclass(frozen=True)
class Fault:
    """What goes wrong on one connection: at ``point``, with the object number ``after`` (from 0) where there is one."""

    point: str
    manner: str
    after: int = 0


class BadPacs:
    """Each connection takes the next fault; without one left, all is well.

    Attributes
    ----------
    received
        SOP Instance UID and data set of every object that arrived whole, answered or not.
    """

    def __init__(self, faults: Iterable[Fault | None]) -> None:
        self._faults = iter(faults)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self.received: list[tuple[str, bytes]] = []
        self._acceptor = RawAcceptor(self._serve)
        self.port = self._acceptor.port

    @property
    def connections(self) -> int:
        """How many there have been."""
        return self._acceptor.connections

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already
        self._acceptor.__exit__(kind, error, trace)

    def uids(self) -> list[str]:
        """SOP Instance UIDs in the order in which they came, repeats included."""
        return [uid for uid, _ in self.received]

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            fault = next(self._faults, None)
            self._open.append(connection)
        try:
            self._associate(connection, fault)
            number = 0
            while self._take(connection, fault, number):
                number += 1
        except _Wrong:
            pass

    def _associate(self, connection: socket.socket, fault: Fault | None) -> None:
        self._maybe(connection, fault, CONNECTED)
        acceptance = association_acceptance(receive_pdu(connection))
        if fault is not None and fault.point == ACCEPTING:
            connection.sendall(acceptance[: len(acceptance) // 2])
        self._maybe(connection, fault, ACCEPTING)
        connection.sendall(acceptance)
        self._maybe(connection, fault, ACCEPTED)

    def _take(self, connection: socket.socket, fault: Fault | None, number: int) -> bool:
        """Take one object, and answer it; ``False`` at the end of the association."""
        command, data_set = bytearray(), bytearray()
        is_whole = False
        while not is_whole:
            pdu = receive_pdu(connection)
            if pdu[0] == RELEASE_RQ:
                self._maybe(connection, fault, RELEASING)
                connection.sendall(struct.pack(">BBI4x", RELEASE_RP, 0, 4))
                return False
            if pdu[0] != P_DATA:
                return False
            is_command, is_last = bool(pdu[11] & 1), bool(pdu[11] & 2)
            (command if is_command else data_set).extend(pdu[12:])
            is_whole = is_last and not is_command
            if not is_whole:
                self._maybe(connection, fault, REQUEST, number)
        values = _values(bytes(command))
        uid = values[0x00001000].rstrip(b"\0").decode()
        self.received.append((uid, bytes(data_set)))
        self._maybe(connection, fault, STORED, number)
        is_wrong = fault is not None and (fault.point, fault.after) == (ANSWERING, number)
        is_other = is_wrong and fault is not None and fault.manner == OTHER_MESSAGE
        if is_other:
            values[0x00000110] = b"\x39\x30"
        answer = p_data(_response(values), command=True, last=True, context=pdu[10])
        if is_wrong and not is_other:
            connection.sendall(answer[: len(answer) // 2])
            self._maybe(connection, fault, ANSWERING, number)
        connection.sendall(answer)
        self._maybe(connection, fault, ANSWERED, number)
        return True

    def _maybe(self, connection: socket.socket, fault: Fault | None, point: str, number: int | None = None) -> None:
        if fault is None or fault.point != point or number not in (None, fault.after):
            return
        match fault.manner:
            case "stalls":
                self._over.wait(30)
            case "resets":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case "talks nonsense":
                connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # a reset would take the nonsense away before it was read
                    pass
        raise _Wrong


class _Wrong(Exception):
    """The end of a connection on which something went wrong."""


def _values(command: bytes) -> dict[int, bytes]:
    values, position = {}, 0
    while position < len(command):
        group, number, length = struct.unpack_from("<HHI", command, position)
        values[group << 16 | number] = command[position + 8 : position + 8 + length]
        position += 8 + length
    return values


def _response(request: dict[int, bytes]) -> bytes:
    """The command set of a C-STORE response with status 0x0000 (PS3.7 section 9.3.1.2)."""
    elements = b"".join(
        element(tag, vr, value, IMPLICIT)
        for tag, vr, value in (
            (0x00000002, "UI", request[0x00000002]),
            (0x00000100, "US", struct.pack("<H", 0x8001)),
            (0x00000120, "US", request[0x00000110]),
            (0x00000800, "US", struct.pack("<H", 0x0101)),
            (0x00000900, "US", struct.pack("<H", 0x0000)),
            (0x00001000, "UI", request[0x00001000]),
        )
    )
    return element(0x00000000, "UL", struct.pack("<I", len(elements)), IMPLICIT) + elements
