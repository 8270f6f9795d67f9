"""Versions change while studies come in: none is lost, none is judged twice, each result says which version made it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from appliance.journal.records import JobView, ModelVersion
from appliance.results.readback import read_report
from tests.support.daemon import Daemon
from tests.support.model_packages import area_of, cone_study, write_bright_package
from tests.support.peers import SR, FakePacs
from tests.support.scanner import storescu
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.peer, pytest.mark.slow]

LEVELS = {"1.0.0": 0.2, "1.1.0": 0.45, "1.2.0": 0.7}
"""What each version takes for bright: its area tells which one made a result."""


class Site:
    """A daemon with two models, each in all versions, the oldest of which serves; results go to a PACS."""

    def __init__(self, root: Path, pacs: FakePacs, daemons: list[Daemon], **settings: Any) -> None:
        self.root, self.pacs = root, pacs
        self.engines = root / "engines"
        for name, scope in (("bright", "instance"), ("bright-series", "series")):
            write_bright_package(self.engines, "1.0.0", LEVELS["1.0.0"], name=name, scope=scope)
        destination = {"kind": "dicom", "name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port,
                       "results": ["sr"], "retry": {"first_s": 0.2, "longest_s": 1.0}}  # fmt: skip
        self.daemon = Daemon(
            root, destinations=[destination], settings={"models": {"folder": str(self.engines)}, **settings}
        )
        daemons.append(self.daemon)
        self.daemon.start()
        for version in ("1.1.0", "1.2.0"):
            for name, scope in (("bright", "instance"), ("bright-series", "series")):
                write_bright_package(self.engines, version, LEVELS[version], name=name, scope=scope)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "appliance", *arguments, "-c", str(self.daemon.config),
                "--state-dir", str(self.daemon.layout.root)]  # fmt: skip

    def appliance(self, *arguments: str) -> str:
        """Run a command; it must succeed. Returns what it prints."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def models(self, *arguments: str) -> str:
        return self.appliance("models", *arguments)

    def active(self, name: str = "bright") -> ModelVersion | None:
        journal = self.daemon.journal()
        try:
            return journal.activations.all()[name].active
        finally:
            journal.close()

    def send(self, name: str) -> None:
        assert storescu(self.daemon.dicom_port, cone_study(self.root / "studies" / name, name))

    def jobs(self) -> list[JobView]:
        journal = self.daemon.journal()
        try:
            return journal.overview.jobs(10_000)
        finally:
            journal.close()

    def reports(self) -> list[Dataset]:
        """What the PACS has received."""
        return [dcmread(BytesIO(data), force=True) for _, _, data in self.pacs.received]

    def assert_each_study_judged_once(self, studies: int) -> Counter[str]:
        """By each model, with an area that is that of the version that the result names; return results by version."""
        reports = self.reports()
        versions: Counter[str] = Counter()
        seen = Counter((report.StudyInstanceUID, algorithm(report)[0]) for report in reports)
        assert len(seen) == 2 * studies and set(seen.values()) == {1}, seen
        for report in reports:
            _, version = algorithm(report)
            (line,) = read_report(report)
            assert line.value == pytest.approx(area_of(LEVELS[version]), rel=0.15)
            versions[version] += 1
        return versions


def algorithm(report: Dataset) -> tuple[str, str]:
    """Name and version of the algorithm, wherever in the tree TID 4019 says them."""
    found: dict[str, str] = {}

    def walk(item: Dataset) -> None:
        for child in item.get("ContentSequence") or []:
            name = child.ConceptNameCodeSequence[0].CodeValue if "ConceptNameCodeSequence" in child else ""
            if name in ("111001", "111003"):
                found[name] = str(child.TextValue)
            walk(child)

    walk(report)
    return found["111001"], found["111003"]


@pytest.mark.parametrize("workers", [1, 2])
def test_versions_change_under_load(workers: int, daemons: list[Daemon], tmp_path: Path) -> None:
    with FakePacs(sop_classes=[SR]) as pacs:
        site = Site(tmp_path, pacs, daemons, worker={"count": workers, "threads": 1})
        stop, sent = threading.Event(), []

        def scanner() -> None:
            while not stop.is_set():
                site.send(f"study {len(sent)}")
                sent.append(None)

        thread = threading.Thread(target=scanner)
        thread.start()
        try:
            for _ in range(2):
                for change in (
                    ("activate", "{}/1.1.0"),
                    ("activate", "{}"),
                    ("rollback", "{}"),
                    ("activate", "{}/1.0.0"),
                ):
                    for name in ("bright", "bright-series"):
                        site.models(change[0], change[1].format(name))
        finally:
            stop.set()
            thread.join(60)
        tally = site.daemon.wait_until_idle(jobs=2 * len(sent), timeout_s=120)
        assert (
            tally["job"] | {"succeeded": 2 * len(sent), "failed": 0, "superseded": 0, "unsuitable": 0} == tally["job"]
        )
        wait_for(lambda: len(pacs.received) >= 2 * len(sent), timeout_s=30, what="the last result")
        versions = site.assert_each_study_judged_once(len(sent))
        assert set(versions) == set(LEVELS), versions  # each of them has served
        assert {job.attempts for job in site.jobs()} == {1}
        assert not [line for line in site.daemon.lines if "Traceback" in line]


def test_from_the_moment_that_the_command_returns_no_job_begins_on_the_old_version(
    daemons: list[Daemon], tmp_path: Path
) -> None:
    with FakePacs(sop_classes=[SR]) as pacs:
        site = Site(tmp_path, pacs, daemons)
        for number, version in enumerate(["1.1.0", "1.2.0", "1.0.0", "1.2.0"]):
            site.models("activate", f"bright/{version}")
            site.send(f"study {number}")
            site.daemon.wait_until_idle(jobs=2 * (number + 1))
            newest = next(job for job in site.jobs() if job.model == "bright")
            assert newest.model_version == version


@pytest.mark.parametrize("moment", ["at a random moment", "while it verifies"])
def test_activate_killed(moment: str, daemons: list[Daemon], tmp_path: Path) -> None:
    """Either nothing has changed, or everything: what serves is what the journal says, and serves."""
    with FakePacs(sop_classes=[SR]) as pacs:
        site = Site(tmp_path, pacs, daemons)
        started = time.monotonic()
        site.models("activate", "bright/1.0.0")
        took = time.monotonic() - started
        outcomes = set()
        for number in range(6):
            target = "1.2.0" if site.active() == ModelVersion("1.1.0", "float32") else "1.1.0"
            with subprocess.Popen(
                site.command("models", "activate", f"bright/{target}"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as process:
                assert process.stderr is not None
                if moment == "while it verifies" and number < 2:  # later it has been verified
                    assert "cone, by onnxruntime" in process.stderr.readline()
                else:
                    try:
                        process.wait(took * (0.7 + 0.1 * number))
                    except subprocess.TimeoutExpired:
                        pass
                process.kill()
            active = site.active()
            assert active is not None
            outcomes.add(active.version)
            site.send(f"study {number}")
            site.daemon.wait_until_idle(jobs=2 * (number + 1))
            assert next(job for job in site.jobs() if job.model == "bright").model_version == active.version
        wait_for(lambda: len(pacs.received) >= 12, timeout_s=30, what="the last result")
        site.assert_each_study_judged_once(6)
        assert site.models("activate", "bright/1.2.0")
        assert outcomes <= set(LEVELS)


@pytest.mark.parametrize("role", ["worker-0", "receiver"])
def test_a_role_killed_while_versions_change(role: str, daemons: list[Daemon], tmp_path: Path) -> None:
    """Its next life runs what the journal says; the jobs that it had go to the version that serves."""
    with FakePacs(sop_classes=[SR]) as pacs:
        site = Site(tmp_path, pacs, daemons, worker={"max_attempts": 10})  # one job may meet every kill
        sent = 0
        for version in ("1.1.0", "1.2.0", "1.1.0"):
            for _ in range(3):
                site.send(f"study {sent}")
                sent += 1
            change = subprocess.Popen(
                site.command("models", "activate", f"bright/{version}"), stdout=subprocess.DEVNULL
            )
            site.daemon.kill(role)
            assert change.wait(120) == 0
            wait_for(lambda: site.daemon.pid(role) is not None, timeout_s=30, what=f"{role} to be back")
            wait_for(site.daemon.is_ready, timeout_s=60, what="the appliance to be ready")
        site.daemon.wait_until_idle(jobs=2 * sent, timeout_s=120)
        site.send("the last")
        site.daemon.wait_until_idle(jobs=2 * (sent + 1), timeout_s=60)
        assert {(job.state, job.message) for job in site.jobs()} == {("succeeded", None)}
        newest = next(job for job in site.jobs() if job.model == "bright")
        assert newest.model_version == "1.1.0"
        wait_for(lambda: len({uid for uid, _, _ in pacs.received}) >= 2 * (sent + 1), timeout_s=30, what="all results")
        site.assert_each_study_judged_once(sent + 1)


def test_one_that_fails_is_not_activated(daemons: list[Daemon], tmp_path: Path) -> None:
    """Its golden case says so, the command's exit code too, and the old version serves on."""
    with FakePacs(sop_classes=[SR]) as pacs:
        site = Site(tmp_path, pacs, daemons)
        write_bright_package(site.engines, "2.0.0", 0.7, expected=1.0)
        done = subprocess.run(site.command("models", "activate", "bright"), capture_output=True, text=True, check=False)
        assert done.returncode == 65
        assert "bright/2.0.0 does not pass its golden cases" in done.stderr
        assert (
            'appliance_model_refused{model="bright",precision="float32",version="2.0.0"} 1.0' in site.daemon.metrics()
        )
        site.send("study")
        site.daemon.wait_until_idle(jobs=2)
        assert {job.model_version for job in site.jobs()} == {"1.0.0"}


def test_a_model_that_wants_other_images_is_activated(daemons: list[Daemon], tmp_path: Path) -> None:
    """From then on the receiver asks it, and its images are judged; after a deactivation they are not."""
    with FakePacs(sop_classes=[SR]) as pacs:
        site = Site(tmp_path, pacs, daemons)
        write_bright_package(site.engines, "1.0.0", 0.4, name="by-hand", activation="manual")
        site.models("activate", "by-hand")
        line = site.daemon.wait_for_line("of the models: bright/1.0.0, bright-series/1.0.0, by-hand/1.0.0")
        site.send("one")
        site.daemon.wait_until_idle(jobs=3)
        site.models("deactivate", "by-hand")
        site.daemon.wait_for_line("of the models: bright/1.0.0, bright-series/1.0.0", line + 1)
        site.send("two")
        site.daemon.wait_until_idle(jobs=5)
        assert Counter(job.model for job in site.jobs()) == {"bright": 2, "bright-series": 2, "by-hand": 1}


def test_a_damaged_network_is_mended_without_a_restart(daemons: list[Daemon], tmp_path: Path) -> None:
    """Put the file right, activate again, requeue what failed."""
    with FakePacs(sop_classes=[SR]) as pacs:
        site = Site(tmp_path, pacs, daemons)
        network = site.engines / "bright" / "1.1.0" / "model.onnx"
        sound = network.read_bytes()
        site.models("activate", "bright/1.1.0")
        site.daemon.wait_for_line("bright/1.1.0 is warm")
        network.write_bytes(sound[:-1])
        site.daemon.kill("worker-0")
        site.daemon.wait_for_line("bright/1.1.0 cannot run", timeout_s=60)
        site.send("study")
        wait_for(lambda: "failed" in {job.state for job in site.jobs()}, timeout_s=60, what="the job to fail")
        network.write_bytes(sound)
        site.models("activate", "bright/1.1.0")
        (failed,) = (job for job in site.jobs() if job.state == "failed")
        site.appliance("requeue", "--job", str(failed.job_id))
        site.daemon.wait_until_idle(jobs=2)
        assert {job.state for job in site.jobs()} == {"succeeded"}


def test_a_shadow_judges_everything_and_delivers_nothing(daemons: list[Daemon], tmp_path: Path) -> None:
    """Its results are stored and compared; one that refuses everything disturbs nobody."""
    with FakePacs(sop_classes=[SR]) as pacs:
        site = Site(tmp_path, pacs, daemons)
        write_bright_package(site.engines, "3.0.0", 1.5, name="bright-series", scope="series", golden=False)
        site.models("activate", "bright/1.1.0", "--shadow")
        site.models("activate", "bright-series/3.0.0", "--shadow")
        sizes = [1.0, 0.9, 0.8]
        site.daemon.wait_for_line("bright-series/3.0.0 is warm")
        for number, size in enumerate(sizes):
            assert storescu(site.daemon.dicom_port, cone_study(tmp_path / str(number), str(number), size))
        site.daemon.wait_until_idle(jobs=6)
        journal = site.daemon.journal()
        wait_for(lambda: journal.overview.tally()["shadow"]["succeeded"] == 3, timeout_s=60, what="one shadow to end")
        wait_for(lambda: journal.overview.tally()["shadow"]["unsuitable"] == 3, timeout_s=60, what="the other to end")
        assert journal.overview.tally()["delivery"]["delivered"] == 6
        journal.close()
        assert sorted(map(algorithm, site.reports())) == [("bright", "1.0.0")] * 3 + [("bright-series", "1.0.0")] * 3
        compared = json.loads(site.models("compare", "bright", "--json"))
        (area,) = compared["measurements"]
        areas = [(area_of(LEVELS["1.0.0"], size), area_of(LEVELS["1.1.0"], size)) for size in sizes]
        assert area["images"] == 3
        assert area["mean_difference"] == pytest.approx(fmean(small - large for large, small in areas), rel=0.15)
        (segment,) = compared["segments"]
        wanted = fmean(2 * small / (large + small) for large, small in areas)
        assert (segment["label"], segment["images"]) == ("Bright", 3)
        assert segment["mean_dice"] == pytest.approx(wanted, abs=0.03)
        refused = json.loads(site.models("compare", "bright-series", "--json"))
        assert (refused["both"], refused["shadow"]["unsuitable"], len(refused["differences"])) == (0, 3, 3)
        status = json.loads(site.appliance("status", "--json"))
        assert status["not_ready"] == [] and status["failed_jobs"] == []
        assert sum(job["shadow"] for job in status["jobs"]) == 6
        metrics = site.daemon.metrics()
        assert 'appliance_shadow_jobs_total{model="bright",outcome="succeeded"} 3.0' in metrics
        assert 'appliance_jobs_total{model="bright",outcome="succeeded"} 3.0' in metrics
        site.models("activate", "bright/1.1.0")
        site.send("after")
        site.daemon.wait_until_idle(jobs=8)
        assert next(job for job in site.jobs() if job.model == "bright" and not job.shadow).model_version == "1.1.0"
