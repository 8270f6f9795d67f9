"""Images come, are deleted and come again, while the process that deletes them is killed at random moments."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from appliance.retention.removal import Removal
from tests.support.received_files import data_set, part10
from tests.support.reception import Reception

_KEEPER = """
import sys, time
from pathlib import Path
from appliance.config.settings import Retention, Settings, Storage
from appliance.journal.journal import Journal
from appliance.observability.metrics import Metrics
from appliance.retention.keeper import Keeper
from appliance.spool.spool import Spool
root = Path(sys.argv[1])
settings = Settings(storage=Storage(min_free_bytes=0), retention=Retention(max_age_days=1e-9, min_age_s=0))
keeper = Keeper(settings, Journal(root / "journal" / "journal.sqlite3"), Spool(root / "spool"), Metrics(),
                on_fatal=lambda: None)
keeper._removal.take_up()
print("up", flush=True)
while True:
    keeper.delete_old(time.time())
"""
_IMAGES = 12
_KILLS = 12


def test_no_row_without_its_file_and_no_file_without_its_row(tmp_path: Path) -> None:
    reception = Reception(tmp_path, stable_age_s=0.01, settle_s=0)
    reception.assembler.start()
    stop = threading.Event()
    stored = []

    def send(number: int) -> None:
        chance = random.Random(number)
        while not stop.is_set():
            image = chance.randrange(_IMAGES)
            incoming = reception.spool.incoming.new("dicom")
            incoming.write(
                part10(data_set(instance=f"1.2.3.{image}", study=f"1.2.{image % 3}"), instance=f"1.2.3.{image}")
            )
            stored.append(reception.store.accept(incoming, received_at=time.time()).outcome)
            incoming.close()

    def confirm() -> None:
        while not stop.is_set():
            reception.store.confirm()
            time.sleep(0.005)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(2)]
    threads.append(threading.Thread(target=confirm))
    for thread in threads:
        thread.start()
    chance = random.Random(1)
    try:
        for _ in range(_KILLS):
            keeper = subprocess.Popen([sys.executable, "-c", _KEEPER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
            assert keeper.stdout is not None and keeper.stdout.readline() == "up\n"
            time.sleep(chance.uniform(0.0, 0.3))
            assert keeper.poll() is None
            keeper.send_signal(signal.SIGKILL)
            keeper.communicate()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    reception.store.confirm()
    reception.spool.incoming.close()
    Removal(reception.journal, reception.spool).take_up()
    [(deleted,)] = reception.rows("SELECT count(*) FROM deletion")
    files = {reception.spool.relative(path) for path in reception.spool.root.rglob("*") if path.is_file()}
    assert files == {path for (path,) in reception.rows("SELECT path FROM instance")}
    assert deleted > _KILLS and set(stored) == {"stored", "duplicate"}
    assert reception.rows("SELECT * FROM tombstone") == [] and reception.rows("PRAGMA foreign_key_check") == []
    reception.stop()
