"""The doctor's visit while a scanner sends and old studies are deleted: nothing is wrong, and nobody is disturbed."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from appliance.cli.main import main
from appliance.config.settings import Retention, Settings, Storage
from appliance.retention.keeper import Keeper
from tests.peers.test_backup import Scanner
from tests.support.reception import Reception

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("storescu") is None, reason="dcmtk is not installed: apt install dcmtk"),
]


def test_nothing_is_wrong_while_all_is_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reception = Reception(tmp_path / "state", stable_age_s=0.2)
    reception.assembler.start()
    settings = Settings(storage=Storage(min_free_bytes=0), retention=Retention(max_age_days=1 / 86400, min_age_s=0))
    keeper = Keeper(settings, reception.journal, reception.spool, reception.metrics, on_fatal=reception.fatal.set)
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(0.05):
            reception.store.confirm()
            keeper.delete_old(time.time())

    config = tmp_path / "appliance.yaml"
    config.write_text(json.dumps({"storage": {"min_free_bytes": 0}}))
    keeping = threading.Thread(target=keep)
    with Scanner(reception.start_node(), tmp_path / "images") as scanner:
        keeping.start()
        while not reception.journal.retention.newest(1):
            time.sleep(0.01)
        sent = len(scanner.acknowledged)
        for _ in range(4):
            code = main(["doctor", "-c", str(config), "--state-dir", str(tmp_path / "state"), "--deep"])
            assert code == 0, "".join(capsys.readouterr())
        while len(scanner.acknowledged) <= sent:
            time.sleep(0.01)
        stop.set()
        keeping.join()
    reception.stop()
    assert not reception.fatal.is_set()
