"""Whether a study that is sent now would be taken and judged."""

from __future__ import annotations

import fcntl

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.spool.spool import Spool


def unready_reasons(settings: Settings, layout: StateLayout, spool: Spool) -> list[str]:
    """Return what is missing, in words; an empty list means ready."""
    reasons = []
    free = spool.free_bytes()
    if free < settings.storage.min_free_bytes:
        reasons.append(
            f"disk: {free >> 20} MiB free, below the mark of {settings.storage.min_free_bytes >> 20} MiB: "
            "images are refused (0xA700). Free space"
        )
    workers = [f"worker-{number}" for number in range(settings.worker.count)]
    for role in ("receiver", "sender", *workers):
        if not is_running(layout, role):
            reasons.append(f"{role}: not running")
        elif not (layout.run / f"{role}.ready").exists():
            reasons.append(f"{role}: starting")
    return reasons


def is_running(layout: StateLayout, role: str) -> bool:
    """Whether a role runs: it holds a lock that the kernel drops when it ends, however that is."""
    try:
        with (layout.run / f"{role}.lock").open("r", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
