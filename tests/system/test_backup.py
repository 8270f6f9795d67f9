"""A backup of the whole appliance at work goes on where it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.peers import FakePacs
from tests.support.scanner import storescu
from tests.support.studies import head_study
from tests.system.test_kill import FORMS, assert_received_once, pacs_settings

pytestmark = [pytest.mark.peer, pytest.mark.slow]


def test_jobs_and_deliveries_go_on_after_a_restore(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    """One study was delivered before the backup, one is judged meanwhile: in both lives, as the same objects."""
    with FakePacs() as pacs:
        first = Daemon(tmp_path / "first", destinations=[pacs_settings(pacs)], weights=weights)
        daemons.append(first)
        first.start()
        assert storescu(first.dicom_port, head_study(tmp_path / "one", "one"))
        first.wait_until_idle(jobs=1, timeout_s=120)
        assert storescu(first.dicom_port, head_study(tmp_path / "two", "two"))
        first.wait_for_line("job 2: infer", timeout_s=60)
        backup = [sys.executable, "-m", "appliance", "backup", str(tmp_path / "backup")]
        subprocess.run([*backup, "--state-dir", str(first.layout.root)], check=True)
        first.wait_until_idle(jobs=2, timeout_s=120)
        first.stop()
        assert len(pacs.received) == 2 * FORMS

        second = Daemon(tmp_path / "second", destinations=[pacs_settings(pacs)], weights=weights)
        daemons.append(second)
        restore = [sys.executable, "-m", "appliance", "restore", str(tmp_path / "backup")]
        subprocess.run([*restore, "--state-dir", str(second.layout.root)], check=True)
        second.start()
        tally = second.wait_until_idle(jobs=2, timeout_s=120)
        assert (tally["job"]["succeeded"], tally["delivery"]["delivered"]) == (2, 2 * FORMS)
        assert len(pacs.received) == 3 * FORMS, "what had been delivered before the backup was not sent again"
        assert_received_once(pacs, 2 * FORMS)
