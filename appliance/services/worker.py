"""The worker role: runs the models. One process per share of the machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.journal.journal import Journal
from appliance.observability.metrics import Metrics
from appliance.pipeline.line import InferenceLine
from appliance.pipeline.model import Model
from appliance.services.models import usable_packages
from appliance.services.role import Fatal, Part, run_role
from appliance.spool.spool import Spool

_log = logging.getLogger(__name__)


def run_worker(name: str, settings: Settings, layout: StateLayout) -> int:
    """Run the worker called ``name`` (``worker-0``); return the exit code."""

    def build(fatal: Fatal) -> Sequence[Part]:
        # Inference yields to reception, which has to answer within milliseconds.
        os.nice(settings.worker.nice)
        journal = Journal(layout.journal)
        spool = Spool(layout.spool, min_free_bytes=settings.storage.min_free_bytes)
        threads = settings.worker.threads or max(1, len(os.sched_getaffinity(0)) // settings.worker.count)
        models = {
            package.manifest.key: Model(package, threads=threads, cache=layout.cache)
            for package in usable_packages(settings, layout)
        }
        if not models:
            _log.warning("no model is usable; see: appliance models list")
        metrics = Metrics.for_role(name, layout.metrics)
        return [InferenceLine(name, settings, journal, spool, layout.run, models, metrics, fatal)]

    return run_role(name, settings, layout, build)
