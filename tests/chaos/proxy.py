"""A TCP proxy that is a bad network, or a bad peer, when it is told to."""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
from contextlib import suppress
from enum import StrEnum

from tests.support.ports import free_port

_PIECE_BYTES = 65536
_LOOK_S = 0.05


class Mode(StrEnum):
    """What happens to connections."""

    PASS = "pass"
    REFUSE = "refuse"
    """Nobody listens; what is open is reset."""
    RESET = "reset"
    """What is open is reset, and each new connection at its first bytes."""
    CUT = "cut"
    """Connections end after a few thousand bytes, wherever that is."""
    STALL = "stall"
    """Nothing moves any more."""
    SLOW = "slow"
    """Very little moves."""
    GARBAGE = "garbage"
    """Whatever is asked, the answer is noise."""


class Proxy:
    """Passes connections on to a port of this machine, from construction to ``stop``."""

    def __init__(self, target_port: int, seed: str) -> None:
        self.port = free_port()
        self.connections = 0
        self._target_port = target_port
        self._random = random.Random(seed)
        self._mode = Mode.PASS
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    def become(self, mode: Mode) -> None:
        """Behave so from now on."""
        self._mode = mode

    def stop(self) -> None:
        """End all connections."""
        self._stopping.set()
        self._thread.join(10)

    def _accept(self) -> None:
        listener: socket.socket | None = None
        while not self._stopping.is_set():
            if self._mode is Mode.REFUSE:
                if listener is not None:
                    listener.close()
                    listener = None
                self._stopping.wait(_LOOK_S)
                continue
            if listener is None:
                listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
            if select.select([listener], [], [], _LOOK_S)[0]:
                connection, _ = listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        if listener is not None:
            listener.close()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target_port), timeout=5) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end.settimeout(5)
            budget = self._random.randint(100, 60_000)
            open_ends = {client: server, server: client}
            while open_ends and not self._stopping.is_set():
                mode = self._mode
                if mode in (Mode.REFUSE, Mode.RESET) or (mode is Mode.CUT and budget <= 0):
                    _reset(client, server)
                    return
                if mode is Mode.STALL:
                    self._stopping.wait(_LOOK_S)
                    continue
                for end in select.select(list(open_ends), [], [], _LOOK_S)[0]:
                    if mode is Mode.SLOW:
                        self._stopping.wait(_LOOK_S)
                    limit = {Mode.SLOW: 500, Mode.CUT: max(1, budget)}.get(mode, _PIECE_BYTES)
                    piece = end.recv(limit)
                    if not piece:
                        open_ends.pop(end).shutdown(socket.SHUT_WR)
                        continue
                    budget -= len(piece)
                    if mode is Mode.GARBAGE:
                        end.sendall(self._random.randbytes(min(len(piece), 2000)))
                    else:
                        open_ends[end].sendall(piece)


def _reset(*ends: socket.socket) -> None:
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()
