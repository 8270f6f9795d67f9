"""What all roles share: one of each name at a time, signals, and a clean end.

A role's main thread only waits: for a signal, or for one of its threads to report that it cannot go on. Everything
else happens in the role's parts, which are started in order and stopped in reverse.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Protocol

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.errors import ConfigurationError
from appliance.observability.logs import set_up_logs
from appliance.spool.durable import ensure_folder

_log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FATAL = 70  # EX_SOFTWARE: a part of the role ended by itself; the supervisor starts the role again
_PR_SET_PDEATHSIG = 1
_LOCK_PATIENCE_S = 1.0

SUPERVISED = "APPLIANCE_SUPERVISOR_PID"
"""Environment variable by which ``appliance run`` tells a role its process id."""


class Part(Protocol):
    """Something with a life of its own inside a role."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Lifecycle:
    """How the parts of a role tell it that they serve, or that they cannot go on."""

    def __init__(self, ready_file: Path) -> None:
        self._ready_file = ready_file
        self._event = threading.Event()
        self.failed = False

    def ready(self) -> None:
        """The role serves. The console looks for this file, beside the lock, to tell it from one that is starting."""
        self._ready_file.touch()
        _log.info("ready")

    def fail(self) -> None:
        """A part has ended by itself and has logged why: the role ends and is started afresh."""
        self.failed = True
        self._event.set()

    def request_stop(self) -> None:
        """End the role in good order."""
        self._event.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end to be asked for; ``True`` when it was."""
        return self._event.wait(timeout_s)


def state_of(settings: Settings, state_dir: Path | None) -> StateLayout:
    """Return where the state lies: as the option or the setting says, else in the user's own state folder (XDG)."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    root = state_dir or settings.state_dir or Path(home) / "dicom-inference-appliance"
    return StateLayout(root.absolute())


def prepare_state(settings: Settings, state_dir: Path | None) -> StateLayout:
    """Make the folders of the state and return where they are.

    Raises
    ------
    ConfigurationError
        The state folder cannot be made or written.
    """
    layout = state_of(settings, state_dir)
    try:
        for folder in layout.folders:
            ensure_folder(folder)
        probe = layout.run / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"the state folder {layout.root} cannot be used",
            found=error.strerror,
            expected="a folder that this user may write",
            mend="Correct its owner, or name another folder",
        ) from error
    return layout


def run_role(
    name: str,
    settings: Settings,
    layout: StateLayout,
    build: Callable[[Lifecycle], Sequence[Part]],
    *,
    ready_when_started: bool = True,
) -> int:
    """Run a role until SIGTERM or SIGINT, or until one of its parts fails; return the exit code.

    Parameters
    ----------
    name
        ``receiver``, ``worker-0``, ``sender``, ``console``.
    build
        Makes the parts, in the order in which they start.
    ready_when_started
        Whether the role serves as soon as its parts have started; otherwise one of them says so.

    Raises
    ------
    ConfigurationError
        The same role runs already on this state folder.
    """
    set_up_logs(name, settings.logging.level)
    ready_file = layout.run / f"{name}.ready"
    lifecycle = Lifecycle(ready_file)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: lifecycle.request_stop())
    _end_with_supervisor(lifecycle)
    with only_one(name, layout):
        ready_file.unlink(missing_ok=True)  # of a life that was killed
        started: list[Part] = []
        try:
            for part in build(lifecycle):
                if lifecycle.wait(0):
                    break
                part.start()
                started.append(part)
            if ready_when_started:
                lifecycle.ready()
            while not lifecycle.wait(1.0):
                pass
        finally:
            ready_file.unlink(missing_ok=True)
            for part in reversed(started):
                try:
                    part.stop()
                except Exception:  # noqa: BLE001 - the parts that are left have to stop too: a promise may hang on them
                    _log.exception("a part did not stop in good order")
                    lifecycle.fail()
        _log.info("stopped")
    return EXIT_FATAL if lifecycle.failed else EXIT_OK


def only_one(name: str, layout: StateLayout) -> IO[str]:
    """Hold the role's lock for as long as the returned file is open; the kernel drops it whatever ends the process.

    Raises
    ------
    ConfigurationError
        The role runs already.
    """
    lock = (layout.run / f"{name}.lock").open("w", encoding="ascii")
    # The console asks whether a role runs by taking the lock for a moment: only a lock that stays is another role.
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            lock.close()
            raise ConfigurationError(
                f"a {name} runs already on this state folder",
                mend="Stop it first, or give this one another --state-dir",
            ) from error
    return lock


def _end_with_supervisor(lifecycle: Lifecycle) -> None:
    """Get SIGTERM when ``appliance run`` dies, by ``kill -9`` too, so that no role is left behind."""
    supervisor = os.environ.get(SUPERVISED)
    if supervisor is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(supervisor):
        lifecycle.request_stop()  # it died before the line above
