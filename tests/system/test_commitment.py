"""Storage commitment while roles are killed: between the request and the report, and while the peer is away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.committing import Modality, ask, pairs, request
from tests.support.daemon import Daemon
from tests.support.dicom_factory import Subject, ct_series, ct_voxels
from tests.support.ports import free_port
from tests.support.waiting import wait_for
from tests.system.test_revisions import appliance

pytestmark = pytest.mark.slow

TRANSACTION = "1.2.840.113.1"


def test_every_request_is_reported_whatever_is_killed(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    port = free_port()
    daemon = Daemon(
        tmp_path,
        settings={
            "dicom": {"peers": [{"ae_title": "CT1", "port": port}]},
            "models": {"active": ["cxr-lung"]},
            "commitment": {"wait_s": 0.5, "timeout_s": 2, "retry": {"first_s": 0.1, "longest_s": 0.2}},
        },
        weights=weights,
    )
    daemons.append(daemon)
    daemon.start()
    images = ct_series(ct_voxels(3, 16, 16), subject=Subject(seed="committed"))
    asker = Modality()
    with asker.association(daemon.dicom_port) as association:
        for image in images:
            assert association.send_c_store(image).Status == 0
        for number, missing in enumerate(("", "1.2.3")):
            asked = [*pairs(images), *([(images[0].SOPClassUID, missing)] if missing else [])]
            assert ask(association, request(f"{TRANSACTION}.{number}", asked)) == 0
        daemon.kill_all()
    asker.stop()
    daemon.start(ready=False)
    status = wait_for(lambda: waiting(daemon), 60, what="status to say why the peer does not know")
    assert "no association with CT1" in str(status["message"])
    daemon.kill("sender")
    teller = Modality(script=[0x0112], port=port)  # it refuses the first
    wait_for(lambda: tally(daemon) == {"pending": 0, "queued": 0, "reported": 1, "failed": 1}, 60)
    done = appliance(daemon, "requeue", "--commitments")
    assert (done.returncode, done.stdout) == (0, "1 storage commitment(s) are judged and reported again\n")
    wait_for(lambda: tally(daemon)["reported"] == 2, 60)
    teller.stop()
    assert len(teller.reports) == 3
    told = {report[0]: report for report in [*asker.reports, *teller.reports]}
    assert told == {
        f"{TRANSACTION}.0": (f"{TRANSACTION}.0", 1, set(pairs(images)), {}),
        f"{TRANSACTION}.1": (f"{TRANSACTION}.1", 2, set(pairs(images)), {"1.2.3": 0x0112}),
    }
    assert 'appliance_commitments_total{outcome="taken"} 2.0' in daemon.metrics()


def tally(daemon: Daemon) -> dict[str, int]:
    """Commitments by state."""
    counts: dict[str, int] = json.loads(appliance(daemon, "status", "--json").stdout)["counts"]["commitment"]
    return counts


def waiting(daemon: Daemon) -> dict[str, object] | None:
    """What status says of reports that wait, once it says why."""
    views = json.loads(appliance(daemon, "status", "--json").stdout)["commitments"]
    return next((view for view in views if view["message"] and view["count"] == 2), None)
