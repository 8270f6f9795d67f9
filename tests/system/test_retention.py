"""Images come, are deleted and come again, while the process that deletes them is killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from appliance.config.settings import Retention, Settings, Storage
from appliance.journal.journal import Journal
from appliance.retention.keeper import Keeper
from appliance.retention.removal import Removal
from tests.support.received_files import data_set, part10
from tests.support.reception import Reception
from tests.support.waiting import wait_for

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
_KILLS = 5
_IMAGES_OF_1_MIB = 400


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can make a small disk, and not in every container")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_three_times_what_the_disk_holds_is_taken_without_a_refusal(small_disk: Path) -> None:
    """Deletion begins before reception is refused, and brings the room back that was asked for."""
    mark, target = 16 << 20, 64 << 20
    reception = Reception(small_disk, stable_age_s=0.05, settle_s=0, min_free_bytes=mark)
    reception.assembler.start()
    settings = Settings(
        storage=Storage(min_free_bytes=mark), retention=Retention(target_free_bytes=target, min_age_s=0.1)
    )
    keeper = Keeper(settings, reception.journal, reception.spool, reception.metrics, on_fatal=reception.fatal.set)

    def has_room() -> bool:
        keeper.make_room(time.time())
        return reception.spool.free_bytes() >= target

    try:
        for number in range(_IMAGES_OF_1_MIB):
            uid, study = f"1.2.3.{number}", f"1.2.{number // 10}"
            content = data_set(instance=uid, study=study, series=study, pixels=bytes(1 << 20))
            with closing(reception.spool.incoming.new("dicom")) as incoming:
                incoming.write(part10(content, instance=uid))
                assert reception.store.accept(incoming, received_at=time.time()).outcome == "stored"
            if number % 10 == 9:  # about as often as the keeper looks
                reception.store.confirm()
                wait_for(has_room)
    finally:
        reception.stop()
    [total] = [total for total in Journal(small_disk / "journal" / "journal.sqlite3").retention.totals() if total.bytes]
    assert total.reason == "space" and total.bytes > 250 << 20
