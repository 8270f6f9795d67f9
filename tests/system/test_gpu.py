"""The whole appliance on an emulated GPU: its worker has the real pycuda, and loses its device while it works."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.modelrepo.package import ModelPackage
from appliance.modelrepo.repository import ModelRepository
from appliance.pipeline.model import network_of
from tests.support.cuda.backend import convert, double_api
from tests.support.cuda.emulation import emulation, read_report
from tests.support.daemon import Daemon
from tests.support.model_packages import cone_study, write_bright_package
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow


class Site:
    """A daemon with one model, which prefers the GPU, and a results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lost, self.report = root / "lost", root / "report"
        (root / "share").mkdir()
        write_bright_package(root / "engines", "1.0.0", 0.5, backends=["tensorrt", "onnxruntime"])
        self.daemon = Daemon(
            root,
            destinations=[{"kind": "folder", "name": "share", "path": str(root / "share"), "results": ["sr"]}],
            settings={"models": {"folder": str(root / "engines")}},
            environment=emulation(lost=self.lost, report=self.report, backend="DoubledTensorRt"),
        )

    def convert(self) -> None:
        """As ``appliance models convert`` does, before the daemon starts or while it serves."""
        package: ModelPackage = ModelRepository(self.root / "engines", self.daemon.layout.weights).find("bright")
        (stage,) = package.manifest.stages
        files = package.require_weights()
        convert(files[stage.weights], network_of(package.manifest, stage), self.daemon.layout.cache, double_api())

    def drop(self, name: str) -> None:
        """Let a study arrive."""
        folder = self.root / name
        cone_study(folder, name)
        shutil.move(folder, self.daemon.layout.dropfolder)

    def ready_on(self, backend: str) -> bool:
        """Whether the metrics say that the model runs there."""
        return any(
            f'backend="{backend}"' in line and line.endswith(" 1.0")
            for line in self.daemon.metrics().splitlines()
            if line.startswith("appliance_model_ready{")
        )

    def balances(self) -> list[dict[str, int]]:
        """What each process that had a device left on it, first to last."""
        return read_report(self.report)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.daemon.stop()


def test_studies_are_judged_on_the_device_and_nothing_is_left_on_it(site: Site) -> None:
    site.convert()
    site.daemon.start()
    assert site.ready_on("tensorrt")
    for number in range(5):
        site.drop(f"study {number}")
    tally = site.daemon.wait_until_idle(jobs=5, timeout_s=90)
    assert tally["job"]["succeeded"] == tally["delivery"]["delivered"] == 5
    site.daemon.stop()
    (balance,) = site.balances()
    assert balance["copies"] >= 10
    assert balance["allocations"] == balance["frees"] > 0
    assert balance["pinned_allocations"] == balance["pinned_frees"] > 0
    assert balance["bytes"] == balance["streams"] == balance["contexts"] == balance["violations"] == 0


def test_a_lost_device_ends_the_worker_and_the_job_is_judged_by_the_next(site: Site) -> None:
    """Nothing is lost, nothing is given up: the job goes back, and the new process has a device again."""
    site.convert()
    site.daemon.start()
    first = site.daemon.pid("worker-0")
    site.lost.touch()
    site.drop("study")
    tally = site.daemon.wait_until_idle(jobs=1, timeout_s=120)
    assert tally["job"]["succeeded"] == tally["delivery"]["delivered"] == 1
    site.daemon.wait_for_line("the GPU failed")
    assert site.daemon.pid("worker-0") != first
    wait_for(lambda: site.ready_on("tensorrt"), what="the model to be on the device again")
    journal = site.daemon.journal()
    assert journal.overview.jobs(1)[0].attempts == 2
    journal.close()
    site.daemon.stop()
    assert [balance["violations"] for balance in site.balances()] == [0, 0]
    assert site.balances()[-1]["bytes"] == 0


def test_without_an_engine_the_next_backend_serves_and_says_why(site: Site) -> None:
    """The serving process builds nothing."""
    site.daemon.start()
    assert site.ready_on("onnxruntime")
    site.daemon.wait_for_line("appliance models convert bright")
    site.drop("study")
    assert site.daemon.wait_until_idle(jobs=1, timeout_s=60)["job"]["succeeded"] == 1
    assert not site.daemon.layout.engines.exists() or not any(site.daemon.layout.engines.glob("*/engine.plan"))


def test_the_acceptance_runs_and_passes(tmp_path: Path) -> None:
    """The command that a customer runs on the box, with the double in the place of TensorRT's runtime."""
    site = Site(tmp_path)  # its daemon does not run
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "models", "bench", "bright", "--acceptance", "--seconds", "1", "--json",
         "-c", str(site.daemon.config), "--state-dir", str(site.daemon.layout.root)],
        env=emulation(report=site.report, backend="EmulatedTensorRt"),
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    details = {check["what"]: check["detail"] for check in json.loads(done.stdout)["checks"]}
    on_tensorrt = "bright/1.0.0 on tensorrt in float32"
    assert {f"{on_tensorrt}: parity", f"{on_tensorrt}: time", f"{on_tensorrt}: memory"} <= set(details)
    assert "on the GPU 1 and 1 MB" in details[f"{on_tensorrt}: memory"]
    for balance in site.balances():
        assert balance["allocations"] == balance["frees"]
        assert balance["bytes"] == balance["violations"] == 0


def test_a_gpu_that_no_engine_runs_on_is_not_accepted(tmp_path: Path) -> None:
    site = Site(tmp_path)  # its daemon does not run
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "models", "bench", "bright", "--acceptance", "--seconds", "0.2", "--json",
         "-c", str(site.daemon.config), "--state-dir", str(site.daemon.layout.root)],
        env=emulation(backend="DoubledTensorRt"),
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    (failed,) = [check for check in json.loads(done.stdout)["checks"] if not check["passed"]]
    assert failed["what"].startswith("GPU ")
    assert "there is no engine of bright/" in failed["detail"]
