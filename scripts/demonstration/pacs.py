"""A PACS that receives what the appliance sends, and the scanner that sends to the appliance."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

AE_TITLE = "DEMOPACS"


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Pacs:
    """dcmtk's ``storescp`` where it is installed, else pynetdicom's, writing what it gets into ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        storescp = shutil.which("storescp")
        self.kind = "dcmtk storescp" if storescp else "pynetdicom storescp"
        self._command = (
            [storescp, "--aetitle", AE_TITLE, "--output-directory", str(folder), str(self.port)]
            if storescp
            else [sys.executable, "-m", "pynetdicom", "storescp", str(self.port), "-aet", AE_TITLE, "-od", str(folder)]
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Pacs:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_port(self.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def received(self) -> list[Path]:
        """The files that have arrived, oldest first."""
        files = [path for path in self.folder.iterdir() if path.is_file()]
        return sorted(files, key=lambda path: path.stat().st_mtime)


def send(files: Sequence[Path], *, port: int, called: str) -> str:
    """Send files by C-STORE as a scanner does; return what sent them.

    Raises
    ------
    RuntimeError
        Not all of them were taken.
    """
    dcmsend = shutil.which("dcmsend")
    listing = [str(path) for path in files]
    if dcmsend:
        # dcmsend offers each file in its own transfer syntax, compressed ones too. The environment variable is dcmtk's
        # way to switch Nagle's algorithm off, which costs 40 ms for each image against any receiver.
        command = [dcmsend, "-aet", "SCANNER", "-aec", called, "127.0.0.1", str(port), *listing]
        done = subprocess.run(command, env={"TCP_NODELAY": "1"}, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"dcmsend: {done.stderr.strip()[-500:]}")
        return "dcmtk dcmsend"
    for start in range(0, len(listing), 200):
        command = [sys.executable, "-m", "pynetdicom", "storescu", "127.0.0.1", str(port), "-aet", "SCANNER",
                   "-aec", called, "-cx", *listing[start : start + 200]]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"pynetdicom storescu: {done.stderr.strip()[-500:]}")
    return "pynetdicom storescu"


def wait_for_port(port: int, timeout_s: float = 30.0) -> None:
    """Wait until somebody listens on a port of this machine; ``TimeoutError`` when nobody does."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody listens on port {port}") from None
            time.sleep(0.05)
