"""``appliance run``: the roles as child processes, for evaluation, containers and tests.

In production systemd does this work; the roles are the same. A role that ends is started again, at once the first
time, then after a pause that grows to half a minute: reception is never given up. Only when a role says at the very
start that its configuration is wrong, a port that is taken say, everything ends, so that whoever started it sees why.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from appliance.config.settings import Settings
from appliance.errors import ConfigurationError
from appliance.services.role import SUPERVISED

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 30.0
_STABLE_S = 30.0
"""A role that ran this long has its pause forgotten."""
_GRACE_S = 30.0
"""How long a role may take to end in good order before it is killed; nothing is lost when it is."""


def role_names(settings: Settings) -> list[str]:
    """The roles of this configuration, in the order in which they are started."""
    workers = [f"worker-{number}" for number in range(settings.worker.count)]
    return ["receiver", "sender", "console", *workers]


@dataclass(slots=True)
class _Child:
    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = field(default=_FIRST_PAUSE_S)
    start_at: float = 0.0


class Supervisor:
    """Keeps the roles running until it is told to stop.

    Parameters
    ----------
    config
        The settings file, handed on to the roles; ``None`` for the defaults.
    state_dir
        The state folder, handed on to the roles.
    """

    def __init__(self, settings: Settings, config: Path | None, state_dir: Path) -> None:
        options = [] if config is None else ["-c", str(config)]
        base = [sys.executable, "-m", "appliance", "role"]
        self._children = [
            _Child(name, [*base, name, *options, "--state-dir", str(state_dir)]) for name in role_names(settings)
        ]
        self._stop = threading.Event()
        self._started_at = time.monotonic()
        self._exit_code = 0

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        try:
            while not self._stop.is_set():
                for child in self._children:
                    self._keep(child)
                # Signals of ended children do not interrupt the wait, so the interval is the delay of a restart.
                self._stop.wait(0.1)
        finally:
            self._end_all()
        return self._exit_code

    def _keep(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is not None:
            code = child.process.poll()
            if code is None:
                return
            child.process = None
            if code == ConfigurationError.exit_code and now - self._started_at < _STABLE_S:
                self._exit_code = code  # the role has said what is wrong, and starting it again does not help
                self._stop.set()
                return
            if now - child.started_at > _STABLE_S:
                child.pause_s = _FIRST_PAUSE_S
            self._start_later(child, now, f"ended with {_exit_words(code)}")
        if now >= child.start_at:
            child.started_at = now
            # Its own session: Ctrl-C reaches the supervisor alone, which then stops the roles in order.
            try:
                child.process = subprocess.Popen(
                    child.command, start_new_session=True, env=os.environ | {SUPERVISED: str(os.getpid())}
                )
            except OSError as error:
                # No memory or no process is free for a moment: that must not end the roles that run.
                self._start_later(child, now, f"cannot be started ({error.strerror})")

    @staticmethod
    def _start_later(child: _Child, now: float, why: str) -> None:
        child.start_at = now + child.pause_s
        _log.error("%s %s; it starts again in %.1f s", child.name, why, child.pause_s)
        child.pause_s = min(_LONGEST_PAUSE_S, child.pause_s * 2)

    def _end_all(self) -> None:
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.warning("a role did not end within %.0f s and is killed", _GRACE_S)
                process.kill()
                process.wait()


def _exit_words(code: int) -> str:
    if code >= 0:
        return f"code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"  # a real-time signal, for which there is no name
