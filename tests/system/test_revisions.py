"""What a late image makes, and a procedure step on its way to the RIS while roles are killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.support.daemon import Daemon
from tests.support.ports import free_port
from tests.support.procedure_steps import begun, change, create, ended, modality
from tests.support.ris import FakeRis
from tests.support.scanner import storescu
from tests.support.studies import head_study
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.peer, pytest.mark.slow]

STEP = "1.2.840.1.1"


def test_the_report_on_a_late_image_replaces_the_first(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    daemon = Daemon(
        tmp_path,
        destinations=[{"kind": "folder", "name": "share", "path": str(share), "results": ["sr"]}],
        weights=weights,
        settings={"models": {"active": ["mr-brain-extract"]}},
    )
    daemons.append(daemon)
    daemon.start()
    paths = head_study(tmp_path / "study", "late")
    assert storescu(daemon.dicom_port, paths[:-1])
    daemon.wait_until_idle(jobs=1)
    # The late one, by way of a modality that sends all of it again, as most do.
    assert storescu(daemon.dicom_port, paths)
    daemon.wait_until_idle(jobs=2)
    reports = {report.SOPInstanceUID: report for report in map(dcmread, share.glob("*.dcm"))}
    assert len(reports) == 2
    [second] = [report for report in reports.values() if "PredecessorDocumentsSequence" in report]
    [study] = second.PredecessorDocumentsSequence
    [series] = study.ReferencedSeriesSequence
    [reference] = series.ReferencedSOPSequence
    first = reports[reference.ReferencedSOPInstanceUID]
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (first.StudyInstanceUID, first.SeriesInstanceUID)
    metrics = daemon.metrics()
    assert "appliance_series_reopened_total 1.0" in metrics
    assert "appliance_late_images_total 1.0" in metrics
    assert f'appliance_instances_total{{outcome="duplicate",source="dicom"}} {len(paths) - 1}.0' in metrics
    assert 'appliance_series_completed_total{sign="association released"} 2.0' in metrics
    page = appliance(daemon, "status").stdout
    assert f"complete by association released  {len(paths)} image(s), 1 late, revision 2" in " ".join(page.split("   "))
    assert "ago, revision 2" in page


def test_a_step_reaches_the_ris_whatever_is_killed(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    port = free_port()
    retry = {"first_s": 0.1, "longest_s": 0.2}
    daemon = Daemon(
        tmp_path,
        settings={
            "models": {"active": ["cxr-lung"]},
            "mpps": {"ris": {"ae_title": "RIS", "host": "127.0.0.1", "port": port, "retry": retry}},
        },
        weights=weights,
    )
    daemons.append(daemon)
    daemon.start()
    with modality(daemon.dicom_port) as association:
        assert create(association, STEP, begun()).Status == 0
        daemon.kill_all()
    daemon.start()
    with modality(daemon.dicom_port) as association:
        assert create(association, STEP, begun()).Status == 0x0111, "it was promised"
        assert change(association, STEP, ended(status="DISCONTINUED")).Status == 0
    status = wait_for(lambda: waiting(daemon), what="status to say why the RIS has nothing")
    assert status["count"] == 2
    assert "no association with RIS" in status["message"]
    ris = FakeRis([0x0106], port=port)
    wait_for(lambda: len(ris.received) == 2)
    daemon.kill("sender")
    wait_for(lambda: json.loads(appliance(daemon, "status", "--json").stdout)["counts"]["step_message"]["failed"] == 1)
    done = appliance(daemon, "requeue", "--procedure-steps")
    assert (done.returncode, done.stdout) == (0, "1 message(s) to the RIS queued again\n")
    wait_for(lambda: ris.messages().count(("N-CREATE", STEP)) == 2, 30)
    ris.stop()


def waiting(daemon: Daemon) -> dict[str, object] | None:
    """What status says of messages to the RIS, once it says why."""
    [view] = json.loads(appliance(daemon, "status", "--json").stdout)["step_messages"]
    return view if view["message"] else None


def appliance(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the daemon's state folder."""
    command = [sys.executable, "-m", "appliance", *arguments, "-c", daemon.config, "--state-dir", daemon.layout.root]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
