"""The emulated power failure takes what was not synced, and nothing else."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.config.layout import StateLayout
from appliance.journal.journal import Journal
from tests.chaos.power_loss import lose_power
from tests.chaos.preload import NO_COMPILER, Faults

pytestmark = pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER))

WORK = """
import os, sys
from pathlib import Path
from appliance.config.layout import StateLayout
from appliance.journal.journal import Journal
from appliance.spool.durable import fsync_file
from appliance.spool.spool import Spool
from tests.unit.journal.makers import received, register
layout = StateLayout(Path(sys.argv[1]))
journal, spool = Journal(layout.journal), Spool(layout.spool)
(spool.results / "synced").write_bytes(bytes(1000))
fsync_file(spool.results / "synced")
(spool.results / "written").write_bytes(bytes(1000))
journal.instances.add_rejection("reason", "synced", "path", "dicom", 1.0)
register(journal, received("1.2.3.4"))
os._exit(0)
"""


def test_power_loss(tmp_path: Path) -> None:
    layout = StateLayout(tmp_path / "state")
    faults = Faults(tmp_path / "faults", layout.root)
    subprocess.run([sys.executable, "-c", WORK, str(layout.root)], env=faults.environment, check=True)
    said = lose_power(layout, faults, random.Random(1))
    assert said.startswith("1 unsynced file(s) cut short, 0 name(s) and ")
    assert "and 0 frame(s)" not in said
    results = layout.spool / "results"
    assert (results / "synced").stat().st_size == 1000
    assert (results / "written").stat().st_size < 1000
    journal = Journal(layout.journal)
    assert journal.instances.find("1.2.3.4") is None
    assert journal.overview.tally()["series"]["receiving"] == 0
    rows = journal.instances._database.connection().execute("SELECT message FROM rejection").fetchall()
    assert [row["message"] for row in rows] == ["synced"]
    journal.close()
