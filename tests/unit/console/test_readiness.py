"""Whether a study that is sent now would be taken and judged."""

from __future__ import annotations

from pathlib import Path

from appliance.config.settings import Settings, Storage, Worker
from appliance.console.readiness import unready_reasons
from appliance.spool.spool import Spool
from tests.unit.console.conftest import ROLES, Bench


def reasons(bench: Bench, settings: Settings | None = None) -> list[str]:
    return unready_reasons(settings or bench.settings, bench.layout, Spool(bench.layout.spool))


def test_all_roles_run_and_are_ready(bench: Bench) -> None:
    with bench.running(*ROLES):
        assert reasons(bench) == []


def test_a_role_that_has_never_run(bench: Bench) -> None:
    with bench.running("receiver", "sender"):
        assert reasons(bench) == ["worker-0: not running"]


def test_a_role_that_is_starting(bench: Bench) -> None:
    """A worker loads and warms its models first."""
    with bench.running("receiver", "sender"), bench.running("worker-0", ready=False):
        assert reasons(bench) == ["worker-0: starting"]


def test_a_role_that_was_killed_leaves_its_file_but_not_its_lock(bench: Bench) -> None:
    with bench.running(*ROLES):
        pass
    assert (bench.layout.run / "worker-0.ready").exists()
    assert reasons(bench) == [f"{role}: not running" for role in ROLES]


def test_each_worker_counts(bench: Bench) -> None:
    with bench.running(*ROLES):
        settings = bench.settings.model_copy(update={"worker": Worker(count=2)})
        assert reasons(bench, settings) == ["worker-1: not running"]


def test_a_disk_below_its_mark(bench: Bench) -> None:
    with bench.running(*ROLES):
        settings = bench.settings.model_copy(update={"storage": Storage(min_free_bytes=1 << 60)})
        [reason] = reasons(bench, settings)
        assert reason.startswith("disk: ")
        assert reason.endswith("MiB: images are refused (0xA700). Free space")


def test_looking_does_not_make_a_role_look_alive(bench: Bench, tmp_path: Path) -> None:
    with bench.running(*ROLES):
        pass
    for _ in range(3):
        assert len(reasons(bench)) == 3
