"""What any durable receiver has to do and nothing else, on bare TCP and in DICOM.

``receive FOLDER`` prints its port, to which ``send PORT FILE…`` sends; ``receive-dicom FOLDER`` takes C-STORE requests,
believes whatever the peer says, and registers nothing.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from pathlib import Path

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ, A_RELEASE_RP

from appliance.intake.store_messages import StoreRequest, encode_store_response, parse_store_request

_BLOCK = 256 * 1024


def receive(folder: Path) -> None:
    """Take files from any number of connections for ever: length, bytes; written, synced, answered with one byte."""
    folder.mkdir(parents=True)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(connection, folder), daemon=True).start()


def _serve(connection: socket.socket, folder: Path) -> None:
    buffer = bytearray(_BLOCK)
    view = memoryview(buffer)
    path = folder / f"{threading.get_ident()}"
    while head := connection.recv(4, socket.MSG_WAITALL):
        (left,) = struct.unpack(">I", head)
        with path.open("wb", buffering=0) as stream:
            while left:
                arrived = connection.recv_into(view[: min(left, _BLOCK)])
                stream.write(view[:arrived])
                left -= arrived
            os.fsync(stream.fileno())
        connection.sendall(b"\0")


def receive_dicom(folder: Path) -> None:
    """Take C-STORE requests from any number of associations for ever; each data set is written and synced."""
    folder.mkdir(parents=True)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_serve_dicom, args=(connection, folder), daemon=True).start()


def _serve_dicom(connection: socket.socket, folder: Path) -> None:
    path = folder / f"{threading.get_ident()}"
    stream = connection.makefile("rb", buffering=_BLOCK)
    buffer = memoryview(bytearray(1024 * 1024))
    descriptor = -1
    request: StoreRequest | None = None
    while head := stream.read(6):
        kind, _, length = struct.unpack(">BBI", head)
        if kind == 1:
            connection.sendall(_acceptance(head + stream.read(length)))
        elif kind == 5:
            connection.sendall(A_RELEASE_RP().encode() if stream.read(length) else b"")
        while kind == 4 and length:
            size, context_id, control = struct.unpack(">IBB", stream.read(6))
            piece = buffer[: size - 2]
            stream.readinto(piece)  # type: ignore[attr-defined]
            length -= size + 4
            if control & 1:
                request = parse_store_request(bytes(piece))
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                continue
            os.write(descriptor, piece)
            if control & 2:
                assert request is not None
                os.fsync(descriptor)
                os.close(descriptor)
                connection.sendall(encode_store_response(context_id, request, 0, ""))


def _acceptance(request: bytes) -> bytes:
    proposal = A_ASSOCIATE_RQ()
    proposal.decode(request)
    primitive = proposal.to_primitive()
    for context in primitive.presentation_context_definition_list:
        context.transfer_syntax = context.transfer_syntax[:1]
        context.result = 0
    primitive.presentation_context_definition_results_list = primitive.presentation_context_definition_list
    primitive.result = 0
    primitive.user_information[0].maximum_length_received = 128 * 1024
    answer = A_ASSOCIATE_AC()
    answer.from_primitive(primitive)
    return answer.encode()


def send(port: int, paths: list[str]) -> None:
    """Send files one after the other, each once the one before has been answered."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for path in paths:
            content = Path(path).read_bytes()
            connection.sendall(struct.pack(">I", len(content)))
            connection.sendall(content)
            assert connection.recv(1) == b"\0"


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(Path(sys.argv[2]))
    elif sys.argv[1] == "receive-dicom":
        receive_dicom(Path(sys.argv[2]))
    else:
        send(int(sys.argv[2]), sys.argv[3:])
