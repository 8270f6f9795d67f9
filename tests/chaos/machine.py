"""The appliance as a campaign has it: started again whenever it ends, killed, suspended, and cut off from its power."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from appliance.config.layout import StateLayout
from tests.chaos.power_loss import lose_power
from tests.chaos.preload import Faults
from tests.support.daemon import Daemon
from tests.support.model_packages import write_bright_package
from tests.support.waiting import wait_for

ROLES = ("receiver", "worker-0", "sender", "console")
MODELS = {"CR": "bright", "DX": "whole"}
"""Which model judges which kind of image: one as soon as the image is there, one once its series is complete."""
RESULTS = ("sr", "seg", "sc")
PACS = "pacs"
_DX = "1.2.840.10008.5.1.4.1.1.1.1"


class Machine:
    """One appliance on one state folder.

    Parameters
    ----------
    pacs_port
        Of the proxy before the PACS.

    Attributes
    ----------
    kills
        How many processes were killed, by what was killed.
    """

    def __init__(self, root: Path, pacs_port: int) -> None:
        engines = root / "engines"
        write_bright_package(engines, "1.0.0", 0.5, name=MODELS["CR"])
        _for_radiographs(write_bright_package(engines, "1.0.0", 0.5, name=MODELS["DX"], scope="series"))
        self.faults = Faults(root / "faults", StateLayout(root / "state").root)
        self.daemon = Daemon(
            root,
            environment=self.faults.environment,
            destinations=[
                {"kind": "dicom", "name": PACS, "ae_title": "PACS", "host": "127.0.0.1", "port": pacs_port,
                 "timeout_s": 4.0, "retry": {"first_s": 0.2, "longest_s": 2.0}, "results": list(RESULTS), "forward": {}}
            ],
            settings={
                "models": {"folder": str(engines)},
                # A job that was killed with its worker is tried again: here it is not what kills it.
                "worker": {"max_attempts": 100, "retry_s": 0.5, "threads": 1, "lease_s": 20.0},
                "assembly": {"settle_s": 0.2, "stable_age_s": 5.0},
                "dicom": {"network_timeout_s": 15.0},
                "logging": {"level": "INFO"},
            },
        )  # fmt: skip
        self.kills: Counter[str] = Counter()
        self.starts = 0
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start(self) -> None:
        """Start it, wait until it is ready, and keep it running from now on."""
        self.daemon.start()
        self.starts += 1
        self._keeper.start()

    def stop(self) -> int:
        """Stop it in good order; return the exit code."""
        self._stopping.set()
        self._keeper.join()
        return self.daemon.stop()

    def kill(self, role: str) -> bool:
        """``kill -9`` a role; ``False`` when it is not running just now."""
        with self._lock, suppress(psutil.NoSuchProcess, ProcessLookupError):
            pid = self.daemon.pid(role)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                self.kills[role] += 1
                return True
        return False

    def kill_supervisor(self) -> None:
        """``kill -9`` the supervisor; what it leaves behind has to end by itself."""
        with self._lock:
            self.daemon.kill_supervisor()
            self.kills["supervisor"] += 1

    def lose_power(self, rng: random.Random) -> str:
        """Kill everything at once and take from the disk what was not synced; say what that was."""
        with self._lock:
            running = sum(self.daemon.pid(role) is not None for role in ROLES) + 1
            self.daemon.kill_all()
            self.kills["power"] += running
            return lose_power(self.daemon.layout, self.faults, rng)

    def suspend(self, role: str) -> int | None:
        """Stop a role in its tracks; return its process id for ``go_on``."""
        with self._lock, suppress(psutil.NoSuchProcess, ProcessLookupError):
            pid = self.daemon.pid(role)
            if pid is not None:
                os.kill(pid, signal.SIGSTOP)
            return pid
        return None

    def go_on(self, pid: int) -> None:
        """Let a suspended process go on, if it still is."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until it serves; it may end and be started meanwhile."""

        def ready() -> bool:
            with self._lock, suppress(RuntimeError):
                return self.daemon.is_ready()
            return False

        wait_for(ready, timeout_s=timeout_s, what="the appliance to be ready")

    def log(self) -> list[str]:
        """What all roles have logged so far."""
        return list(self.daemon.lines)

    def _keep(self) -> None:
        """Start it again when it has ended, as systemd does."""
        while not self._stopping.wait(0.2):
            with self._lock:
                if not self.daemon.is_running():
                    self.daemon.start(ready=False)
                    self.starts += 1


def _for_radiographs(package: Path) -> None:
    """Let a package judge DX instead of CR."""
    path = package / "manifest.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    content["match"] = {"modality": ["DX"], "sop_class_uid": [_DX]}
    path.write_text(yaml.safe_dump(content))
