"""How models run on this machine: how many threads, and who verifies them. Heavy: the receiver stays without it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.pipeline.verification import Verification
from appliance.pipeline.verifier import Progress, Verifier

_log = logging.getLogger(__name__)


def verifier(
    settings: Settings,
    layout: StateLayout,
    *,
    progress: Progress = _log.info,
    observe: Callable[[Verification], None] = lambda _: None,
) -> Verifier:
    """What verifies models on this machine, and remembers it in the state folder."""
    return Verifier(
        layout.verified, threads=thread_count(settings), cache=layout.cache, progress=progress, observe=observe
    )


def thread_count(settings: Settings) -> int:
    """Threads for one worker's inference: as set, or its share of the cores."""
    return settings.worker.threads or max(1, len(os.sched_getaffinity(0)) // settings.worker.count)
