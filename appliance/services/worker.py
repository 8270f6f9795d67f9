"""The worker role: runs the models. One process per share of the machine."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Sequence
from functools import partial

from appliance.backends.gpu_share import GpuShare
from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.journal.journal import Journal
from appliance.observability.metrics import Metrics
from appliance.pipeline.line import InferenceLine
from appliance.pipeline.model import Model
from appliance.pipeline.roster import Lineup
from appliance.pipeline.verification import Verification
from appliance.services.inference import thread_count, verifier
from appliance.services.models import active_models
from appliance.services.role import Lifecycle, Part, run_role
from appliance.spool.spool import Spool

_log = logging.getLogger(__name__)


def run_worker(name: str, settings: Settings, layout: StateLayout) -> int:
    """Run the worker called ``name`` (``worker-0``); return the exit code."""

    def build(lifecycle: Lifecycle) -> Sequence[Part]:
        # Inference yields to reception, which has to answer within milliseconds.
        os.nice(settings.worker.nice)
        # pydicom warns of values that break their VR, and repeats them; several threads read images here, and a filter
        # that one of them sets for a while is no filter of its own.
        warnings.simplefilter("ignore")
        journal = Journal(layout.journal)
        metrics = Metrics.for_role(name, layout.metrics)
        return [
            InferenceLine(
                name,
                settings,
                journal,
                Spool(layout.spool, min_free_bytes=settings.storage.min_free_bytes),
                layout.run,
                partial(_lineup, settings, layout, journal, _gpu_share(name, settings)),
                metrics,
                gate=verifier(settings, layout, observe=lambda found: _show(found, metrics)).require,
                on_ready=lambda: _settled(lifecycle),
                on_fatal=lifecycle.fail,
            )
        ]

    return run_role(name, settings, layout, build, ready_when_started=False)


def _show(found: Verification, metrics: Metrics) -> None:
    """Put a verification into the metrics, whether it was done now or is remembered."""
    model, _, version = found.model.partition("/")
    labels = (model, version, found.backend.partition(" ")[0], found.precision)
    metrics.model_verified.labels(*labels).set(found.passed)
    if found.least_dice is not None:
        metrics.model_dice.labels(*labels).set(found.least_dice)
    if found.largest_size_difference is not None:
        metrics.model_size_difference.labels(*labels).set(found.largest_size_difference)


def _lineup(settings: Settings, layout: StateLayout, journal: Journal, gpu: GpuShare) -> Lineup:
    """The models that this worker should run now."""
    active = active_models(settings, layout, journal)
    for complaint in active.complaints():
        _log.warning("%s", complaint)
    return Lineup(
        active.generation,
        {
            (found.manifest.name, found.manifest.version, found.shadow): (
                found.manifest.key,
                found.precision,
                partial(
                    Model,
                    found.package,
                    threads=thread_count(settings),
                    cache=layout.cache,
                    precision=found.precision,
                    gpu=gpu,
                ),
            )
            for found in active.usable
        },
    )


def _gpu_share(name: str, settings: Settings) -> GpuShare:
    """The share of the worker called ``worker-<number>``."""
    return GpuShare(int(name.rpartition("-")[2]), settings.worker.count, settings.worker.gpu_memory_bytes)


def _settled(lifecycle: Lifecycle) -> None:
    """Everything that stays is loaded: keep the garbage collector from walking through it again and again.

    Loading a series makes tens of thousands of short-lived objects, and each hundred would otherwise start a walk: a
    quarter of the time that 192 headers take.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    lifecycle.ready()
