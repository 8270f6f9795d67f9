"""Metrics that are read off the journal and the disk at each scrape, instead of being counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from appliance.config.settings import Settings
from appliance.journal.journal import Journal
from appliance.spool.spool import Spool
from appliance.version import __version__


class JournalCollector(Collector):
    """States, queues, ages, disk. What a scrape costs does not grow with what the journal holds."""

    def __init__(self, journal: Journal, spool: Spool, settings: Settings) -> None:
        self._journal = journal
        self._spool = spool
        self._settings = settings

    def collect(self) -> Iterator[Metric]:
        """See ``prometheus_client``."""
        yield self._states()
        yield self._oldest()
        yield self._deliveries()
        yield self._models()
        yield self._refused()
        yield from self._retention()
        free = GaugeMetricFamily("appliance_disk_free_bytes", "Free space of the spool's disk")
        free.add_metric([], self._spool.free_bytes())
        yield free
        mark = GaugeMetricFamily("appliance_disk_water_mark_bytes", "Below this much free space images are refused")
        mark.add_metric([], self._settings.storage.min_free_bytes)
        yield mark
        build = GaugeMetricFamily("appliance_build_info", "Always 1; the version is the label", labels=["version"])
        build.add_metric([__version__], 1)
        yield build

    def _states(self) -> Metric:
        family = GaugeMetricFamily(
            "appliance_rows",
            "Series, jobs, jobs of shadows, deliveries, procedure steps, their messages to the RIS and storage "
            "commitments that the journal holds, by state; queued ones are the queue's depth",
            labels=["kind", "state"],
        )
        for kind, states in self._journal.overview.tally().items():
            for state, count in states.items():
                family.add_metric([kind, state], count)
        return family

    def _oldest(self) -> Metric:
        family = GaugeMetricFamily(
            "appliance_oldest_waiting_seconds",
            "How long the oldest series being received, queued job, queued delivery, queued message to the RIS and "
            "unreported storage commitment have waited; 0 when none does",
            labels=["kind"],
        )
        now, waiting = time.time(), self._journal.overview.waiting()
        for kind, since in asdict(waiting).items():
            family.add_metric([kind], 0.0 if since is None else max(0.0, now - since))
        return family

    def _models(self) -> Metric:
        family = GaugeMetricFamily(
            "appliance_model_info",
            "Always 1; which version of each model serves, and which one runs beside it: the kind is active or shadow",
            labels=["model", "version", "precision", "kind"],
        )
        for activation in self._journal.activations.used(self._settings.models.names):
            for kind, version in (("active", activation.active), ("shadow", activation.shadow)):
                if version is not None:
                    family.add_metric([activation.model, version.version, version.precision, kind], 1)
        return family

    def _refused(self) -> Metric:
        family = GaugeMetricFamily(
            "appliance_model_refused",
            "1 for a version that was to be activated but failed its golden cases, until something else is decided",
            labels=["model", "version", "precision"],
        )
        for refused in self._journal.activations.refused(self._settings.models.names):
            family.add_metric([refused.model, refused.version.version, refused.version.precision], 1)
        return family

    def _retention(self) -> Iterator[Metric]:
        studies = CounterMetricFamily(
            "appliance_deleted_studies", "Studies that were deleted, by reason (age, space)", labels=["reason"]
        )
        size = CounterMetricFamily(
            "appliance_deleted_bytes", "Bytes of images and results that were deleted, by reason", labels=["reason"]
        )
        for total in self._journal.retention.totals():
            studies.add_metric([total.reason], total.studies)
            size.add_metric([total.reason], total.bytes)
        yield studies
        yield size
        oldest = GaugeMetricFamily("appliance_oldest_study_seconds", "Since the first image of the oldest series came")
        since = self._journal.retention.oldest_received_at()
        oldest.add_metric([], 0.0 if since is None else max(0.0, time.time() - since))
        yield oldest
        target = GaugeMetricFamily(
            "appliance_retention_target_bytes", "Below this much free space the oldest studies are deleted"
        )
        target.add_metric([], self._settings.retention_target_free_bytes)
        yield target

    def _deliveries(self) -> Metric:
        family = GaugeMetricFamily(
            "appliance_deliveries_undone",
            "Deliveries that are queued, being sent, or failed, by destination",
            labels=["destination", "state"],
        )
        found = {(view.destination, str(view.state)): view.count for view in self._journal.overview.deliveries()}
        for destination in self._settings.destinations:
            for state in ("queued", "sending", "failed"):
                family.add_metric([destination.name, state], found.pop((destination.name, state), 0))
        for (name, state), count in found.items():  # destinations that are no longer in the settings
            family.add_metric([name, state], count)
        return family
