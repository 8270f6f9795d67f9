"""What any durable receiver has to do and nothing else: ``receive FOLDER`` prints its port, ``send PORT FILE…``."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from pathlib import Path

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
    else:
        send(int(sys.argv[2]), sys.argv[3:])
