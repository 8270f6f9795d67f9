"""A damaged model package disturbs no other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.scanner import storescu
from tests.support.studies import REPOSITORY, chest_study, head_study

pytestmark = [pytest.mark.peer, pytest.mark.slow]


@pytest.mark.shared_data
def test_damaged_weights(daemons: list[Daemon], tmp_path: Path, weights: Path, shared_data_dir: Path) -> None:
    """Its jobs fail with the reason and what mends it; one without a manifest is named in the log; another serves."""
    engines = tmp_path / "engines"
    shutil.copytree(REPOSITORY / "engines", engines)
    model = engines / "cxr-lung" / "1.0.0" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1000])
    (engines / "half-copied" / "1.0.0").mkdir(parents=True)
    daemon = Daemon(tmp_path, settings={"models": {"folder": str(engines)}}, weights=weights)
    daemons.append(daemon)
    daemon.start()
    daemon.wait_for_line("model package half-copied/1.0.0 is left out: cannot read")
    assert 'appliance_model_ready{backend="none",model="cxr-lung",version="1.0.0"} 0.0' in daemon.metrics()
    assert storescu(daemon.dicom_port, chest_study(shared_data_dir, tmp_path / "chest", "damaged"))
    assert storescu(daemon.dicom_port, head_study(tmp_path / "head", "sound"))
    tally = daemon.wait_until_idle(jobs=2)
    assert tally["job"] | {"failed": 1, "succeeded": 1} == tally["job"]
    journal = daemon.journal()
    failed = journal.overview.jobs(2)[1]
    journal.close()
    assert failed.reason == "model-unusable"
    assert "is not the file that its manifest names" in (failed.message or "")
