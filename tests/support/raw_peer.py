"""A DICOM peer made of raw bytes, for behaviour that no library would show (PS3.8 section 9.3)."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

from tests.support.received_files import CT, EXPLICIT, IMPLICIT, INSTANCE, element

ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RP, ABORT = 2, 3, 4, 6, 7
RELEASE_RQ = struct.pack(">BBII", 5, 0, 4, 0)
"""A whole A-RELEASE-RQ PDU."""


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def associate_request(called: str = "APPLIANCE", calling: str = "RAW", sop_class: str = CT) -> bytes:
    """An A-ASSOCIATE-RQ PDU with one presentation context, number 1, explicit VR little endian."""
    context = struct.pack(">BBBB", 1, 0, 0, 0)
    context += _item(0x30, sop_class.encode()) + _item(0x40, EXPLICIT.encode())
    user = _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"1.2.826.0.1.3680043.9.9999")
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    body += _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x20, context) + _item(0x50, user)
    return struct.pack(">BBI", 1, 0, len(body)) + body


def p_data(fragment: bytes, *, command: bool, last: bool, context: int = 1) -> bytes:
    """A P-DATA-TF PDU with one fragment."""
    value = bytes([context, (1 if command else 0) | (2 if last else 0)]) + fragment
    return struct.pack(">BBI", 4, 0, len(value) + 4) + struct.pack(">I", len(value)) + value


def store_command(sop_class: str = CT, instance: str = INSTANCE, *, with_data_set: bool = True) -> bytes:
    """The command set of a C-STORE request (PS3.7 section 9.3.1)."""

    def number(tag: int, value: int) -> bytes:
        return element(tag, "US", struct.pack("<H", value), IMPLICIT)

    elements = (
        element(0x00000002, "UI", sop_class.encode(), IMPLICIT)
        + number(0x00000100, 0x0001)
        + number(0x00000110, 7)
        + number(0x00000700, 0)
        + number(0x00000800, 0x0001 if with_data_set else 0x0101)
        + element(0x00001000, "UI", instance.encode(), IMPLICIT)
    )
    return element(0x00000000, "UL", struct.pack("<I", len(elements)), IMPLICIT) + elements


class RawPeer:
    """A connection that sends what it is told and reads PDUs."""

    def __init__(self, port: int) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def send(self, *pdus: bytes) -> None:
        """Send bytes as they are."""
        self.connection.sendall(b"".join(pdus))

    def associate(self, **options: str) -> None:
        """Be accepted."""
        self.send(associate_request(**options))
        kind, _ = self.read()
        assert kind == ASSOCIATE_AC, f"PDU type {kind}"

    def read(self) -> tuple[int, bytes]:
        """The next PDU: type and content; ``(0, b"")`` when the connection was closed."""
        head = self._exactly(6)
        if len(head) < 6:
            return 0, b""
        kind, _, length = struct.unpack(">BBI", head)
        return kind, self._exactly(length)

    def read_to_end(self) -> list[int]:
        """Types of all PDUs until the connection is closed."""
        kinds = []
        while (kind := self.read()[0]) != 0:
            kinds.append(kind)
        return kinds

    def read_status(self) -> int:
        """The status of the next answer."""
        kind, content = self.read()
        assert kind == P_DATA, f"PDU type {kind}"
        at = content.index(struct.pack("<HHI", 0x0000, 0x0900, 2))
        return int(struct.unpack_from("<H", content, at + 8)[0])

    def _exactly(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            try:
                piece = self.connection.recv(count - len(content))
            except ConnectionResetError:
                piece = b""
            if not piece:
                break
            content += piece
        return content
