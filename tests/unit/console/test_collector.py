"""Metrics that are computed at the scrape."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from appliance.config.settings import FolderDestination, Settings, Storage
from appliance.console.collector import JournalCollector
from appliance.journal.journal import Journal
from appliance.journal.records import ModelVersion
from appliance.spool.spool import Spool
from appliance.version import __version__
from tests.unit.journal.makers import claim, queue_job, succeed

LABELS = {"kind", "reason", "state", "destination", "version"}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.sqlite3")
    yield journal
    journal.close()


@pytest.fixture
def registry(journal: Journal, tmp_path: Path) -> CollectorRegistry:
    settings = Settings(
        storage=Storage(min_free_bytes=1 << 20),
        destinations=[
            FolderDestination(kind="folder", name="pacs", path=tmp_path),
            FolderDestination(kind="folder", name="idle", path=tmp_path),
        ],
    )
    registry = CollectorRegistry()
    registry.register(JournalCollector(journal, Spool(tmp_path / "spool"), settings))
    return registry


def test_every_state_is_there_from_the_start(registry: CollectorRegistry) -> None:
    for kind, states in {
        "series": ("receiving", "complete"),
        "job": ("queued", "running", "succeeded", "unsuitable", "failed", "superseded"),
        "shadow": ("queued", "running", "succeeded", "unsuitable", "failed", "superseded"),
        "delivery": ("queued", "sending", "delivered", "failed"),
    }.items():
        for state in states:
            assert registry.get_sample_value("appliance_rows", {"kind": kind, "state": state}) == 0


def test_what_waits_and_for_how_long(registry: CollectorRegistry, journal: Journal) -> None:
    def waiting(kind: str) -> float | None:
        return registry.get_sample_value("appliance_oldest_waiting_seconds", {"kind": kind})

    assert [waiting(kind) for kind in ("series", "job", "delivery")] == [0, 0, 0]
    queue_job(journal, "1", at=time.time() - 100)
    assert waiting("job") == pytest.approx(100, abs=20)
    claim(journal, now=time.time())
    assert waiting("job") == 0


def test_a_clock_that_was_set_back_makes_no_negative_age(registry: CollectorRegistry, journal: Journal) -> None:
    queue_job(journal, "1", at=time.time() + 3600)
    assert registry.get_sample_value("appliance_oldest_waiting_seconds", {"kind": "job"}) == 0


def test_deliveries_by_destination(registry: CollectorRegistry, journal: Journal) -> None:
    queue_job(journal, "1")
    succeed(journal, claim(journal), destinations=("pacs", "removed-from-settings"))
    journal.deliveries.claim("pacs", 220, 1)

    def undone(destination: str, state: str) -> float | None:
        labels = {"destination": destination, "state": state}
        return registry.get_sample_value("appliance_deliveries_undone", labels)

    assert (undone("pacs", "queued"), undone("pacs", "sending"), undone("pacs", "failed")) == (1, 1, 0)
    assert undone("idle", "queued") == 0  # a destination that has nothing is 0, not absent
    assert undone("removed-from-settings", "queued") == 2  # nobody sends these: somebody has to see it


def test_disk_and_version(registry: CollectorRegistry) -> None:
    assert (registry.get_sample_value("appliance_disk_free_bytes") or 0) > 0
    assert registry.get_sample_value("appliance_disk_water_mark_bytes") == 1 << 20
    assert registry.get_sample_value("appliance_build_info", {"version": __version__}) == 1


def test_label_names_are_from_a_closed_list(registry: CollectorRegistry) -> None:
    for family in registry.collect():
        for sample in family.samples:
            assert set(sample.labels) <= LABELS
        assert family.documentation


def test_versions_that_serve_and_that_run_in_the_shadow(registry: CollectorRegistry, journal: Journal) -> None:
    def shown(version: str, kind: str, precision: str = "float32") -> float | None:
        labels = {"model": "brain", "version": version, "precision": precision, "kind": kind}
        return registry.get_sample_value("appliance_model_info", labels)

    journal.activations.activate("brain", ModelVersion("1.0.0", "float32"), 100)
    journal.activations.shadow("brain", ModelVersion("1.1.0", "float16"), 101)
    assert (shown("1.0.0", "active"), shown("1.1.0", "shadow", "float16")) == (1, 1)
    journal.activations.activate("brain", ModelVersion("1.1.0", "float16"), 102)
    assert (shown("1.0.0", "active"), shown("1.1.0", "active", "float16")) == (None, 1)
    journal.activations.deactivate("brain", 103)
    assert shown("1.1.0", "active", "float16") is None


def test_a_refused_activation_is_an_alarm_until_something_is_decided(
    registry: CollectorRegistry, journal: Journal
) -> None:
    labels = {"model": "brain", "version": "1.1.0", "precision": "float32"}
    journal.activations.activate("brain", ModelVersion("1.0.0", "float32"), 100)
    journal.activations.refuse("brain", ModelVersion("1.1.0", "float32"), "Dice 0.5", 101)
    assert registry.get_sample_value("appliance_model_refused", labels) == 1
    journal.activations.activate("brain", ModelVersion("1.0.0", "float32"), 102)
    assert registry.get_sample_value("appliance_model_refused", labels) is None
