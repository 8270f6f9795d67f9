"""``kill -9`` of each role in each stage: nothing acknowledged is lost, nothing is delivered under another UID."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.peers import HANG, FakePacs
from tests.support.scanner import storescu
from tests.support.studies import chest_study, head_study
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.peer, pytest.mark.slow]

FORMS = 3
"""Result objects of one job: SR, capture, segmentation."""


def pacs_settings(pacs: FakePacs) -> dict[str, Any]:
    """The PACS as a destination that is tried again soon."""
    return {"kind": "dicom", "name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port,
            "retry": {"first_s": 0.2, "longest_s": 1.0}}  # fmt: skip


def assert_received_once(pacs: FakePacs, objects: int) -> None:
    """The PACS has ``objects`` different objects; what came twice is the same to the byte."""
    by_uid: dict[str, set[bytes]] = {}
    for uid, _, dataset in pacs.received:
        by_uid.setdefault(uid, set()).add(dataset)
    assert len(by_uid) == objects
    assert all(len(versions) == 1 for versions in by_uid.values()), "one UID came with different content"


@pytest.mark.parametrize("stage", ["load", "infer", "encode"])
def test_worker_killed(stage: str, daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    """The job goes back, runs again, and its results are those that it would have had."""
    with FakePacs() as pacs:
        daemon = Daemon(tmp_path, destinations=[pacs_settings(pacs)], weights=weights)
        daemons.append(daemon)
        daemon.start()
        assert storescu(daemon.dicom_port, head_study(tmp_path / "study", stage))
        daemon.wait_for_line(f"job 1: {stage}", timeout_s=60)
        daemon.kill("worker-0")
        tally = daemon.wait_until_idle(jobs=1, timeout_s=120)
        assert tally["job"]["succeeded"] == 1
        assert tally["delivery"]["delivered"] == FORMS
        assert_received_once(pacs, FORMS)
        journal = daemon.journal()
        assert journal.overview.jobs(1)[0].attempts == 2
        journal.close()


def test_a_job_that_kills_its_worker_is_given_up(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    """After the set attempts the study is failed, with the reason, and the next one is judged."""
    with FakePacs() as pacs:
        daemon = Daemon(
            tmp_path,
            destinations=[pacs_settings(pacs)],
            settings={"worker": {"max_attempts": 2}},
            weights=weights,
        )
        daemons.append(daemon)
        daemon.start()
        assert storescu(daemon.dicom_port, head_study(tmp_path / "poison", "poison"))
        line = 0
        for _ in range(2):
            line = daemon.wait_for_line("job 1: infer", line, timeout_s=60) + 1
            daemon.kill("worker-0")
        assert storescu(daemon.dicom_port, head_study(tmp_path / "next", "next"))
        tally = daemon.wait_until_idle(jobs=2, timeout_s=120)
        assert tally["job"] | {"failed": 1, "succeeded": 1} == tally["job"]
        journal = daemon.journal()
        failed = journal.overview.jobs(2)[1]
        assert failed.reason == "crash"
        assert "requeue" in (failed.message or "")
        journal.close()
        assert_received_once(pacs, FORMS)


def test_receiver_killed_while_receiving(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    """What was acknowledged is there; the scanner sends the rest again, and the whole series is judged once."""
    with FakePacs() as pacs:
        daemon = Daemon(
            tmp_path, destinations=[pacs_settings(pacs)], weights=weights, settings={"assembly": {"stable_age_s": 8.0}}
        )
        daemons.append(daemon)
        daemon.start()
        paths = head_study(tmp_path / "study", "receiving")
        with subprocess.Popen(
            ["storescu", "-v", "-aec", "APPLIANCE", "127.0.0.1", str(daemon.dicom_port), *map(str, paths)],
            env=os.environ | {"TCP_NODELAY": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as scanner:
            assert scanner.stdout is not None
            acknowledged = 0
            for line in scanner.stdout:
                acknowledged += "Received Store Response (Success)" in line
                if acknowledged == 20:
                    daemon.kill("receiver")
                    break
            scanner.stdout.read()
        assert scanner.returncode != 0
        kept = list((daemon.layout.spool / "instances").rglob("*.dcm"))
        assert len(kept) >= acknowledged
        wait_for(lambda: storescu(daemon.dicom_port, paths), timeout_s=60, what="the receiver to be back")
        tally = daemon.wait_until_idle(jobs=1, timeout_s=120)
        assert tally["job"]["succeeded"] == 1
        assert_received_once(pacs, FORMS)
        assert len(list((daemon.layout.spool / "instances").rglob("*.dcm"))) == len(paths)
        assert list((daemon.layout.spool / "conflicts").iterdir()) == []
        # Empty files are made ahead.
        assert [path for path in (daemon.layout.spool / "incoming").iterdir() if path.stat().st_size] == []


def test_receiver_killed_before_the_series_is_complete(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    """The series is completed by the next life of the receiver."""
    with FakePacs() as pacs:
        daemon = Daemon(
            tmp_path,
            destinations=[pacs_settings(pacs)],
            weights=weights,
            settings={"assembly": {"settle_s": 3.0, "stable_age_s": 6.0}},
        )
        daemons.append(daemon)
        daemon.start()
        assert storescu(daemon.dicom_port, head_study(tmp_path / "study", "settling"))
        daemon.kill("receiver")
        tally = daemon.wait_until_idle(jobs=1, timeout_s=120)
        assert tally["job"]["succeeded"] == 1
        assert_received_once(pacs, FORMS)


@pytest.mark.shared_data
def test_sender_killed_in_flight(daemons: list[Daemon], tmp_path: Path, weights: Path, shared_data_dir: Path) -> None:
    """The PACS has the object but its answer never came: it gets the same object again, then the others."""
    with FakePacs([HANG]) as pacs:
        daemon = Daemon(tmp_path, destinations=[pacs_settings(pacs)], weights=weights)
        daemons.append(daemon)
        daemon.start()
        assert storescu(daemon.dicom_port, chest_study(shared_data_dir, tmp_path / "study", "in flight"))
        wait_for(lambda: len(pacs.received) == 1, timeout_s=30, what="the first object to arrive")
        daemon.kill("sender")
        pacs.let_go()
        tally = daemon.wait_until_idle(jobs=1, timeout_s=60)
        assert tally["delivery"]["delivered"] == FORMS
        assert_received_once(pacs, FORMS)
        assert pacs.uids()[0] == pacs.uids()[1]


def test_everything_killed_at_once(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    """As after a power loss: the next start goes on where the last one was."""
    with FakePacs() as pacs:
        daemon = Daemon(tmp_path, destinations=[pacs_settings(pacs)], weights=weights)
        daemons.append(daemon)
        daemon.start()
        assert storescu(daemon.dicom_port, head_study(tmp_path / "study", "power loss"))
        daemon.wait_for_line("job 1: infer", timeout_s=60)
        daemon.kill_all()
        assert not pacs.received
        daemon.start()
        tally = daemon.wait_until_idle(jobs=1, timeout_s=120)
        assert tally["job"]["succeeded"] == 1
        assert_received_once(pacs, FORMS)


@pytest.mark.shared_data
def test_console_killed(daemons: list[Daemon], tmp_path: Path, weights: Path, shared_data_dir: Path) -> None:
    """Nothing but the pages is gone, and they come back with their counts."""
    with FakePacs() as pacs:
        daemon = Daemon(tmp_path, destinations=[pacs_settings(pacs)], weights=weights)
        daemons.append(daemon)
        daemon.start()
        daemon.kill("console")
        assert storescu(daemon.dicom_port, chest_study(shared_data_dir, tmp_path / "study", "console"))
        daemon.wait_until_idle(jobs=1)
        wait_for(daemon.is_ready, timeout_s=30, what="the console to be back")
        assert 'appliance_instances_total{outcome="stored",source="dicom"} 1.0' in daemon.metrics()
        assert_received_once(pacs, FORMS)


def test_supervisor_killed(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    """No role is left behind to hold the port and the locks."""
    daemon = Daemon(tmp_path, weights=weights)
    daemons.append(daemon)
    daemon.start()
    daemon.kill_supervisor()
    daemon.start()
    assert daemon.stop() == 0
