"""The whole appliance as its users run it: ``appliance run`` in a process of its own, with a state folder and ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from appliance.config.layout import StateLayout
from appliance.journal.journal import Journal
from tests.support.ports import free_port
from tests.support.waiting import wait_for

READY_TIMEOUT_S = 120.0


class Daemon:
    """``appliance run`` on a state folder.

    Parameters
    ----------
    destinations
        As in the settings.
    settings
        Further settings, section by section.
    weights
        A weights folder to use, so that models are not fetched for each test.
    environment
        Of its processes; that of the tests when it is left out.
    """

    def __init__(
        self,
        root: Path,
        *,
        destinations: Sequence[Mapping[str, Any]] = (),
        settings: Mapping[str, Any] | None = None,
        weights: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.layout = StateLayout(root / "state")
        self.dicom_port, self.console_port = free_port(), free_port()
        self.config = root / "appliance.yaml"
        self.lines: list[str] = []
        content: dict[str, Any] = {
            "dicom": {"host": "127.0.0.1", "port": self.dicom_port},
            "console": {"port": self.console_port},
            "assembly": {"settle_s": 0.2, "stable_age_s": 3.0},
            "storage": {"min_free_bytes": 0},
            "dropfolder": {"quiet_s": 0.5, "poll_s": 0.2},
            "logging": {"level": "DEBUG"},
            "destinations": list(destinations),
        }
        for section, values in (settings or {}).items():
            content[section] = content.get(section, {}) | dict(values) if isinstance(values, Mapping) else values
        self.dicom_port = content["dicom"]["port"]
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(json.dumps(content))
        self.layout.root.mkdir(parents=True, exist_ok=True)
        if weights is not None:
            self.layout.weights.symlink_to(weights)
            # What was verified on this machine is verified; a file of it is only ever replaced whole.
            verified = StateLayout(weights.parent).verified
            verified.mkdir(parents=True, exist_ok=True)
            self.layout.verified.parent.mkdir()
            self.layout.verified.symlink_to(verified)
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def start(self, *, ready: bool = True) -> None:
        """Start it; wait until it receives and its models are warm unless ``ready`` is false."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "appliance", "run", "-c", str(self.config), "--state-dir", str(self.layout.root)],
            env=None if self._environment is None else dict(self._environment),
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._collect, args=(self._process,), daemon=True).start()
        if ready:
            wait_for(self.is_ready, timeout_s=READY_TIMEOUT_S, what="the appliance to become ready")

    def _collect(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.lines.append(line.rstrip())
        process.stderr.close()

    def is_running(self) -> bool:
        """Whether its supervisor runs."""
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Whether ``/readyz`` says so."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError("the appliance ended: " + "\n".join(self.lines[-20:]))
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.console_port}/readyz", timeout=5):
                return True
        except OSError:
            return False

    def metrics(self) -> str:
        """The text of ``/metrics``."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.console_port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def pid(self, role: str) -> int | None:
        """Process id of a role (``worker-0``), ``None`` while it is not running."""
        assert self._process is not None
        for child in psutil.Process(self._process.pid).children():
            try:
                if role in child.cmdline():
                    return child.pid
            except psutil.NoSuchProcess:
                continue
        return None

    def kill(self, role: str) -> None:
        """``kill -9`` a role; the supervisor starts it again."""
        pid = self.pid(role)
        assert pid is not None, f"{role} is not running"
        os.kill(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Power loss, as far as a process can show it: ``kill -9`` the supervisor and all roles at once."""
        assert self._process is not None
        family = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(10)
        psutil.wait_procs(family, timeout=10)

    def kill_supervisor(self) -> None:
        """``kill -9`` the supervisor alone, and wait until its roles have noticed."""
        assert self._process is not None
        roles = psutil.Process(self._process.pid).children()
        self._process.kill()
        self._process.wait(10)
        _, alive = psutil.wait_procs(roles, timeout=40)
        assert not alive, f"{len(alive)} roles live on without their supervisor"

    def wait_for_line(self, text: str, start: int = 0, timeout_s: float = 30.0) -> int:
        """Wait for a log line that contains ``text``, from line ``start`` on; return its number."""

        def found() -> int | None:
            return next(
                (number + 1 for number, line in enumerate(self.lines) if number >= start and text in line), None
            )

        return wait_for(found, timeout_s=timeout_s, what=f"the log line {text!r}") - 1

    def journal(self) -> Journal:
        """The journal, opened beside the roles; close it."""
        return Journal(self.layout.journal)

    def wait_until_idle(self, *, jobs: int, timeout_s: float = 60.0) -> dict[str, dict[str, int]]:
        """Wait until ``jobs`` jobs have ended and nothing waits any more; return the journal's tally."""
        journal = self.journal()

        def idle() -> dict[str, dict[str, int]] | None:
            tally = journal.overview.tally()
            job, delivery = tally["job"], tally["delivery"]
            ended = job["succeeded"] + job["unsuitable"] + job["failed"]
            busy = tally["series"]["receiving"] + job["queued"] + job["running"]
            busy += delivery["queued"] + delivery["sending"]
            return tally if ended >= jobs and not busy else None

        try:
            return wait_for(idle, timeout_s=timeout_s, what="all work to be done")
        except AssertionError as error:
            raise AssertionError(f"{error}: {journal.overview.tally()}\n" + "\n".join(self.lines[-30:])) from error
        finally:
            journal.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send SIGTERM, as systemd does, or SIGINT, as Ctrl-C does; return the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(60)
