"""Wake-up hints between the roles: datagrams that say "look into the journal now".

A hint may be lost; the roles poll as well. So nothing depends on one arriving, only how quickly.
"""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path
from types import TracebackType


class HintSocket:
    """A role's ear: ``wait`` returns when a hint came or the time is over."""

    def __init__(self, folder: Path, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.sock").unlink(missing_ok=True)
        with _Folder(folder) as short:
            self._socket.bind(f"{short}/{name}.sock")

    def wait(self, timeout_s: float) -> bool:
        """Wait for a hint; ``True`` when one came. Hints that pile up count as one."""
        ready, _, _ = select.select([self._socket], [], [], max(0.0, timeout_s))
        if not ready:
            return False
        while True:
            try:
                self._socket.recv(16)
            except BlockingIOError:
                return True

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def send_hint(folder: Path, prefix: str) -> None:
    """Wake all roles whose socket's name starts with ``prefix``; one that does not listen is passed over."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sender:
        try:
            with _Folder(folder) as short:
                for entry in folder.glob(f"{prefix}*.sock"):
                    try:
                        sender.sendto(b"!", f"{short}/{entry.name}")
                    except OSError:
                        # Nobody listens, or the ear is full of hints already: both are fine.
                        pass
        except FileNotFoundError:
            pass  # no role has started yet


class _Folder:
    """A short name for a folder: socket addresses hold 108 bytes, state folders may be deeper than that."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._descriptor = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._descriptor}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
