"""A console that serves on a free port of this machine."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.config.layout import StateLayout
from appliance.config.settings import Console as ConsoleSettings
from appliance.config.settings import FolderDestination, Settings, Storage
from appliance.console.server import Console
from appliance.journal.journal import Journal
from tests.support.ports import free_port

ROLES = ("receiver", "sender", "worker-0")


class Bench:
    """A state folder, its settings, and the console on it."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings(
            storage=Storage(min_free_bytes=0),
            destinations=[FolderDestination(kind="folder", name="share", path=root / "share")],
            console=ConsoleSettings(port=free_port()),
        )
        self.layout = StateLayout(root)
        for folder in self.layout.folders:
            folder.mkdir(exist_ok=True, parents=True)
        self.journal = Journal(self.layout.journal)
        self.failed = threading.Event()
        self.console = Console(self.settings, self.layout, on_fatal=self.failed.set)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.settings.console.port

    @contextmanager
    def running(self, *roles: str, ready: bool = True) -> Iterator[None]:
        """As if roles ran: each holds its lock, and has its file once it is ready."""
        locks = []
        for role in roles:
            lock = (self.layout.run / f"{role}.lock").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)
            locks.append(lock)
            if ready:
                (self.layout.run / f"{role}.ready").touch()
        try:
            yield
        finally:
            for lock in locks:
                lock.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A console that serves."""
    bench = Bench(tmp_path)
    bench.console.start()
    yield bench
    bench.console.stop()
    bench.journal.close()
    assert not bench.failed.is_set()
