"""Metrics of roles that come and go: counts go on, unreadable files do not stop a role, no label names a patient."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, values

from appliance.observability.metrics import SECONDS, Metrics
from appliance.observability.role_files import RoleFiles

ROOT = Path(__file__).parents[3]

LIFE = """
import sys
from pathlib import Path
from appliance.observability.metrics import Metrics
metrics = Metrics.for_role(sys.argv[1], Path(sys.argv[2]))
for line in sys.argv[3:]:
    exec(line)
"""
INSTANCE = "metrics.instances.labels('dicom', 'stored').inc()"


def live(role: str, folder: Path, *lines: str) -> str:
    """Let a role live in a process of its own, do some things and end as if killed; return what it logged."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIFE, role, folder, *lines, "import os; os._exit(0)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stderr


def value(folder: Path, name: str, *, down: str = "", **labels: str) -> float | None:
    """What the console would serve while all roles but ``down`` run."""
    registry = CollectorRegistry()
    registry.register(RoleFiles(folder, lambda role: role != down))
    return registry.get_sample_value(name, labels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "metrics"


@pytest.fixture(autouse=True)
def _storage_of_values() -> Iterator[None]:
    """``for_role`` switches the library's storage for good; other tests want their own."""
    before = values.ValueClass
    yield
    values.ValueClass = before


def test_counts_go_on_after_a_restart(folder: Path) -> None:
    for life in range(1, 4):
        live("receiver", folder, INSTANCE, "metrics.store_seconds.labels('dicom').observe(0.02)")
        assert value(folder, "appliance_instances_total", source="dicom", outcome="stored") == life
        assert value(folder, "appliance_store_seconds_count", source="dicom") == life


def test_no_file_is_left_behind_by_a_life(folder: Path) -> None:
    live("receiver", folder, INSTANCE)
    first = sorted(path.name for path in folder.iterdir())
    live("receiver", folder, INSTANCE)
    assert sorted(path.name for path in folder.iterdir()) == first


def test_roles_are_summed(folder: Path) -> None:
    for role in ("worker-0", "worker-1", "worker-10"):
        live(role, folder, "metrics.jobs.labels('brain', 'succeeded').inc(2)")
    assert value(folder, "appliance_jobs_total", model="brain", outcome="succeeded") == 6


def test_gauges_tell_what_is_and_not_what_was(folder: Path) -> None:
    """A model that was warm in an earlier life, perhaps of another version, is not ready now."""
    ready = "metrics.model_ready.labels('brain', '{}', 'openvino').set(1)"
    live("worker-0", folder, ready.format("1.0.0"))
    assert value(folder, "appliance_model_ready", model="brain", version="1.0.0", backend="openvino") == 1
    live("worker-0", folder, ready.format("1.1.0"))
    assert value(folder, "appliance_model_ready", model="brain", version="1.1.0", backend="openvino") == 1
    assert not value(folder, "appliance_model_ready", model="brain", version="1.0.0", backend="openvino")


def test_associations_of_a_receiver_that_was_killed_are_not_open(folder: Path) -> None:
    live("receiver", folder, "metrics.open_associations.set(7)")
    live("receiver", folder)
    assert not value(folder, "appliance_open_associations")


def test_a_worker_that_does_not_run_has_no_model_ready(folder: Path) -> None:
    """It was killed, or ``worker.count`` was lowered; what it counted stays counted."""
    model = {"model": "brain", "version": "1.0.0", "backend": "openvino"}
    for role in ("worker-0", "worker-1"):
        ready = f"metrics.model_ready.labels('brain', '1.0.0', 'openvino').set({role[-1]})"
        live(role, folder, ready, "metrics.jobs.labels('brain', 'succeeded').inc()")
    assert value(folder, "appliance_model_ready", **model) == 1
    assert value(folder, "appliance_model_ready", down="worker-1", **model) == 0
    assert value(folder, "appliance_jobs_total", down="worker-1", model="brain", outcome="succeeded") == 2


DAMAGE = {
    "all ones": b"\xff" * 4096,
    "one byte": b"\x10",
    "a count beyond the file": b"\xff\xff\xff\x7f" + b"\x00" * 4092,
    "entries that are no entries": b"\x00\x10\x00\x00" + b"\xff" * 5000,
    "entries of zeros": b"\x00\x10\x00\x00" + b"\x00" * 5000,
    "entries that are no keys": b"\x28\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00spam" + b"\x00" * 100,
    "nothing": b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_unreadable_files_start_anew_with_a_warning(folder: Path, damage: str) -> None:
    """A power loss can leave anything in them; a role that does not start would lose images."""
    live("receiver", folder, INSTANCE)
    live("sender", folder, "metrics.deliveries.labels('pacs', 'delivered').inc()")
    (folder / "counter_receiver.db").write_bytes(DAMAGE[damage])
    assert value(folder, "appliance_deliveries_total", destination="pacs", outcome="delivered") == 1
    logged = live("receiver", folder, INSTANCE)
    assert "the numbers in counter_receiver.db cannot be read and start anew" in logged
    assert value(folder, "appliance_instances_total", source="dicom", outcome="stored") == 1
    assert value(folder, "appliance_deliveries_total", destination="pacs", outcome="delivered") == 1


def test_a_role_whose_name_begins_like_another_keeps_its_numbers(folder: Path) -> None:
    for role in ("worker-1", "worker-11"):
        live(role, folder, "metrics.jobs.labels('brain', 'succeeded').inc()")
    (folder / "counter_worker-1.db").write_bytes(b"\xff" * 4096)
    live("worker-1", folder)
    assert value(folder, "appliance_jobs_total", model="brain", outcome="succeeded") == 1


def test_each_test_may_have_its_own() -> None:
    first, second = Metrics(), Metrics()
    first.instances.labels("dicom", "stored").inc()
    assert first.instances.labels("dicom", "stored")._value.get() == 1
    assert second.instances.labels("dicom", "stored")._value.get() == 0


LABELS = {"source", "outcome", "sign", "model", "answer", "stage", "destination", "kind", "version", "backend",
          "precision", "hold"}  # fmt: skip


@pytest.mark.parametrize("name", vars(Metrics()))
def test_label_names_are_from_a_closed_list(name: str) -> None:
    """None of them can hold a patient, a study or a file."""
    metric = getattr(Metrics(), name)
    assert set(metric._labelnames) <= LABELS
    assert metric._documentation


@pytest.mark.parametrize("name", vars(Metrics()))
def test_names_end_in_their_unit(name: str) -> None:
    metric = getattr(Metrics(), name)
    [family] = metric.collect()
    assert family.name.startswith("appliance_")
    if family.type == "histogram":
        assert family.name.endswith("_seconds")
        assert metric._upper_bounds[:-1] == list(SECONDS)
    if "bytes" in family.name:
        assert family.name.endswith("_bytes")
