"""One study's whole way, as a scanner room, a PACS and a sysadmin see it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

from appliance.results.readback import read_report
from tests.support.daemon import Daemon
from tests.support.peers import DcmtkStoreScp, Orthanc
from tests.support.ports import free_port
from tests.support.scanner import storescu
from tests.support.studies import chest_study, head_study
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.peer, pytest.mark.slow]


def test_head_over_dicom_to_dcmtk_and_folder(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    """SR, capture and SEG reach a PACS and a folder; the SR's number is the model's."""
    with DcmtkStoreScp(tmp_path / "pacs") as pacs:
        daemon = Daemon(
            tmp_path,
            destinations=[
                {"kind": "dicom", "name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port},
                {"kind": "folder", "name": "share", "path": str(tmp_path / "share"), "results": ["sr"]},
            ],
            weights=weights,
        )
        (tmp_path / "share").mkdir()
        daemons.append(daemon)
        daemon.start()
        paths = head_study(tmp_path / "study", "whole way")
        assert storescu(daemon.dicom_port, paths)
        daemon.wait_until_idle(jobs=1)
        received = [dcmread(path) for path in pacs.files()]
        assert sorted(data.Modality for data in received) == ["OT", "SEG", "SR"]
        source = dcmread(paths[0])
        for data in received:
            assert data.StudyInstanceUID == source.StudyInstanceUID
            assert data.PatientID == source.PatientID
            assert data.AccessionNumber == source.AccessionNumber
        (report,) = (data for data in received if data.Modality == "SR")
        (line,) = read_report(report)
        assert (line.concept.meaning, line.unit.value) == ("Volume", "ml")
        journal = daemon.journal()
        job = journal.overview.jobs(1)[0]
        stages = journal.overview.stages(job.job_id)
        journal.close()
        assert set(stages) == {"receive", "settle", "queue", "load", "to_infer", "infer", "read_out", "write"}
        (shared,) = (tmp_path / "share").glob("*.dcm")
        assert dcmread(shared).SOPInstanceUID == report.SOPInstanceUID

        text = daemon.metrics()
        for line_start in (
            'appliance_instances_total{outcome="stored",source="dicom"}',
            'appliance_jobs_total{model="mr-brain-extract",outcome="succeeded"} 1.0',
            'appliance_stage_seconds_count{model="mr-brain-extract",stage="infer"} 1.0',
            'appliance_total_seconds_count{destination="pacs",kind="sr",model="mr-brain-extract"} 1.0',
            'appliance_deliveries_total{destination="share",outcome="delivered"} 1.0',
            'appliance_rows{kind="job",state="succeeded"} 1.0',
            'appliance_assessments_total{answer="no",model="cxr-lung"}',
        ):
            assert line_start in text

        logs = "\n".join(daemon.lines) + text
        for identifying in (source.PatientID, "Demonstration", source.StudyInstanceUID, source.SeriesInstanceUID,
                            source.AccessionNumber, report.SOPInstanceUID, source.SOPInstanceUID):  # fmt: skip
            assert str(identifying) not in logs


def test_repeat_is_a_duplicate(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    """The same images again change nothing; they are acknowledged all the same."""
    daemon = Daemon(tmp_path, weights=weights)
    daemons.append(daemon)
    daemon.start()
    paths = head_study(tmp_path / "study", "twice")[:5]
    assert storescu(daemon.dicom_port, paths)
    assert storescu(daemon.dicom_port, paths)
    wait_for(
        lambda: 'appliance_instances_total{outcome="duplicate",source="dicom"} 5.0' in daemon.metrics(),
        what="the duplicates to be counted",
    )


@pytest.mark.shared_data
def test_chest_by_drop_folder_to_orthanc(
    daemons: list[Daemon], tmp_path: Path, weights: Path, shared_data_dir: Path
) -> None:
    """A zipped CR in the drop folder; Orthanc takes all three objects."""
    with Orthanc(tmp_path / "orthanc") as pacs:
        daemon = Daemon(
            tmp_path,
            destinations=[
                {"kind": "dicom", "name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": pacs.port}
            ],
            weights=weights,
        )
        daemons.append(daemon)
        daemon.start()
        chest_study(shared_data_dir, tmp_path / "study", "dropped")
        archive = shutil.make_archive(str(tmp_path / "study"), "zip", tmp_path / "study")
        shutil.move(archive, daemon.layout.dropfolder)
        daemon.wait_until_idle(jobs=1)
        tags = [pacs.tags(identifier) for identifier in pacs.instances()]
        assert sorted(tag["Modality"] for tag in tags) == ["OT", "SEG", "SR"]
        assert list(daemon.layout.dropfolder.iterdir()) == []


@pytest.mark.shared_data
def test_a_study_that_no_model_can_judge(
    daemons: list[Daemon], tmp_path: Path, weights: Path, shared_data_dir: Path
) -> None:
    """A gap in the series is refused with the reason, visible in the status; a late image then makes it run again."""
    daemon = Daemon(tmp_path, weights=weights)
    daemons.append(daemon)
    daemon.start()
    paths = head_study(tmp_path / "study", "gap")
    missing = paths.pop(90)
    assert storescu(daemon.dicom_port, paths)
    tally = daemon.wait_until_idle(jobs=1)
    assert tally["job"]["unsuitable"] == 1
    shown = subprocess.run(
        [sys.executable, "-m", "appliance", "status", "-c", daemon.config, "--state-dir", daemon.layout.root, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    (job,) = json.loads(shown.stdout)["jobs"]
    assert job["reason"] == "slice-gap"
    assert "1 missing" in job["message"]
    assert storescu(daemon.dicom_port, [missing])
    tally = daemon.wait_until_idle(jobs=2)
    assert tally["job"] | {"unsuitable": 1, "succeeded": 1} == tally["job"]


def test_pacs_down_then_up(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    """Results wait in the outbox, the status says so, and they are delivered when the PACS is back."""
    with DcmtkStoreScp(tmp_path / "first") as pacs:
        port = pacs.port
    daemon = Daemon(
        tmp_path,
        destinations=[{"kind": "dicom", "name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port,
                       "retry": {"first_s": 0.2, "longest_s": 0.5}}],
        weights=weights,
    )  # fmt: skip
    daemons.append(daemon)
    daemon.start()
    assert storescu(daemon.dicom_port, head_study(tmp_path / "study", "down"))

    def waits() -> bool:
        return (
            re.search(r'appliance_deliveries_undone\{destination="pacs",state="queued"\} 3.0', daemon.metrics())
            is not None
        )

    wait_for(waits, timeout_s=60, what="the results to wait for the PACS")
    with DcmtkStoreScp(tmp_path / "second", port=port) as pacs:
        daemon.wait_until_idle(jobs=1)
        assert len(pacs.files()) == 3


@pytest.mark.shared_data
def test_orthanc_as_scanner_and_pacs(
    daemons: list[Daemon], tmp_path: Path, weights: Path, shared_data_dir: Path
) -> None:
    """A PACS that routes a study to the box finds the results in that same study."""
    port = free_port()
    with Orthanc(tmp_path / "orthanc", modalities={"box": ("APPLIANCE", port)}) as pacs:
        daemon = Daemon(
            tmp_path,
            destinations=[
                {"kind": "dicom", "name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": pacs.port}
            ],
            settings={"dicom": {"port": port, "peers": [{"ae_title": "ORTHANC", "host": "127.0.0.1"}]}},
            weights=weights,
        )
        daemons.append(daemon)
        daemon.start()
        assert not storescu(daemon.dicom_port, chest_study(shared_data_dir, tmp_path / "stranger", "stranger"))
        sources = pacs.upload(chest_study(shared_data_dir, tmp_path / "study", "routed"))
        pacs.store_to("box", sources)
        daemon.wait_until_idle(jobs=1)
        tags = [pacs.tags(identifier) for identifier in pacs.instances()]
        assert sorted(tag["Modality"] for tag in tags) == ["CR", "OT", "SEG", "SR"]
        assert len({tag["StudyInstanceUID"] for tag in tags}) == 1
