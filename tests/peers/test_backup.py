"""A backup while a scanner sends and old studies are deleted; and what is made of it again."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from appliance.backup.backup import make_backup
from appliance.backup.manifest import MANIFEST
from appliance.backup.restore import restore_backup
from appliance.config.layout import StateLayout
from appliance.config.settings import Retention, Settings, Storage
from appliance.errors import BackupError
from appliance.journal.journal import Journal
from appliance.retention.keeper import Keeper
from tests.support.received_files import data_set, part10
from tests.support.reception import Reception
from tests.support.scanner import storescu

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("storescu") is None, reason="dcmtk is not installed: apt install dcmtk"),
]


class Scanner:
    """Sends one study after another until it is stopped, and notes what was acknowledged."""

    def __init__(self, port: int, folder: Path) -> None:
        self.acknowledged: set[str] = set()
        self._port = port
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Scanner:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def send(self, images: int = 10) -> None:
        """Send one study."""
        self._folder.mkdir(exist_ok=True)
        study, series = generate_uid(), generate_uid()
        sent = {}
        for number in range(images):
            uid = generate_uid()
            content = data_set(study=study, series=series, instance=uid, pixels=os.urandom(20_000))
            sent[uid] = self._folder / f"{number}.dcm"
            sent[uid].write_bytes(part10(content, instance=uid))
        assert storescu(self._port, list(sent.values()))
        self.acknowledged |= set(sent)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.send()


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    reception = Reception(tmp_path / "state", stable_age_s=0.2)
    reception.assembler.start()
    yield reception
    reception.stop()


def files_of(layout: StateLayout) -> set[str]:
    """All files of acknowledged images, relative to the spool."""
    root = layout.spool
    return {path.relative_to(root).as_posix() for path in (root / "instances").rglob("*") if path.is_file()}


def rows_of(layout: StateLayout) -> dict[str, str]:
    """Path and UID of all images that the journal has."""
    journal = Journal(layout.journal)
    rows = journal._database.connection().execute("SELECT path, sop_instance_uid AS uid FROM instance").fetchall()
    journal.close()
    return {row["path"]: row["uid"] for row in rows}


def test_what_was_acknowledged_before_is_in_it(reception: Reception, tmp_path: Path) -> None:
    target, restored = tmp_path / "backup", StateLayout(tmp_path / "restored")
    with Scanner(reception.start_node(), tmp_path / "images") as scanner:
        while len(scanner.acknowledged) < 30:
            time.sleep(0.01)
        before = set(scanner.acknowledged)
        first = make_backup(reception.layout.journal, reception.layout.spool, target)
        while len(scanner.acknowledged) < len(before) + 30:
            time.sleep(0.01)
        later = set(scanner.acknowledged)
        second = make_backup(reception.layout.journal, reception.layout.spool, target)
    assert (first.missing, second.missing) == (0, 0)
    assert first.copied == first.manifest.files >= len(before)
    assert second.manifest.files == first.manifest.files + second.copied, "only what was new was copied"
    checked = subprocess.run(["sha256sum", "--quiet", "-c", second.manifest.sums], cwd=target, check=False)
    assert checked.returncode == 0

    restore_backup(target, restored)
    rows = rows_of(restored)
    assert later <= set(rows.values())
    assert files_of(restored) == set(rows)
    for path in rows:
        assert (restored.spool / path).read_bytes() == (reception.layout.spool / path).read_bytes()


def test_while_old_studies_are_deleted(reception: Reception, tmp_path: Path) -> None:
    target, restored = tmp_path / "backup", StateLayout(tmp_path / "restored")
    settings = Settings(storage=Storage(min_free_bytes=0), retention=Retention(max_age_days=0.5 / 86400, min_age_s=0))
    keeper = Keeper(settings, reception.journal, reception.spool, reception.metrics, on_fatal=reception.fatal.set)
    stop = threading.Event()

    def keep() -> None:
        while not stop.is_set():
            reception.store.confirm()
            keeper.delete_old(time.time())

    deleting = threading.Thread(target=keep)
    with Scanner(reception.start_node(), tmp_path / "images") as scanner:
        while len(scanner.acknowledged) < 50:
            time.sleep(0.01)
        deleting.start()
        reports = []
        while len(reports) < 4 or not reception.journal.retention.newest(1):
            reports.append(make_backup(reception.layout.journal, reception.layout.spool, target))
        stop.set()
        deleting.join()
    assert {report.missing for report in reports} == {0}
    assert reception.journal.retention.newest(1)
    restore_backup(target, restored)
    assert files_of(restored) == set(rows_of(restored))


@pytest.fixture
def backup(reception: Reception, tmp_path: Path) -> Path:
    """A small backup."""
    Scanner(reception.start_node(), tmp_path / "images").send(3)
    make_backup(reception.layout.journal, reception.layout.spool, tmp_path / "backup")
    return tmp_path / "backup"


def test_a_state_folder_that_is_in_use_is_left_alone(reception: Reception, backup: Path, tmp_path: Path) -> None:
    before = files_of(reception.layout)
    with pytest.raises(BackupError, match="in use"):
        restore_backup(backup, reception.layout)
    assert files_of(reception.layout) == before
    layout = StateLayout(tmp_path / "new")
    restore_backup(backup, layout)
    with pytest.raises(BackupError, match="in use"):
        restore_backup(backup, layout)


@pytest.mark.parametrize("what", ["image", "missing image", "journal", "sums", "manifest", "line"])
def test_a_damaged_backup_is_refused_and_leaves_nothing(backup: Path, tmp_path: Path, what: str) -> None:
    image = next((backup / "spool").rglob("*.dcm"))
    match what:
        case "missing image":
            image.unlink()
        case "line":
            (backup / MANIFEST).write_text((backup / MANIFEST).read_text().replace('"files": 3', '"files": 4'))
        case _:
            path = {"image": image, "journal": backup / "journal-1.sqlite3", "sums": backup / "SHA256SUMS-1",
                    "manifest": backup / MANIFEST}[what]  # fmt: skip
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0x80
            path.chmod(0o600)
            path.write_bytes(content)
    layout = StateLayout(tmp_path / "restored")
    with pytest.raises(BackupError, match="damaged"):
        restore_backup(backup, layout)
    assert not layout.root.exists() or list(layout.root.iterdir()) == []


def test_a_restore_that_was_cut_short_is_begun_again(backup: Path, tmp_path: Path) -> None:
    layout = StateLayout(tmp_path / "restored")
    restore_backup(backup, layout)
    (layout.root / ".restoring").mkdir()
    layout.journal.parent.rename(layout.root / ".restoring" / "journal")  # the last step had not been made
    restore_backup(backup, layout)
    assert files_of(layout) == set(rows_of(layout)) and not (layout.root / ".restoring").exists()


def test_a_backup_that_was_cut_short_leaves_the_earlier_one(
    reception: Reception, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where an image was deleted meanwhile, and came again with other content."""
    [first, *_] = rows_of(reception.layout).values()
    path = next(path for path, uid in rows_of(reception.layout).items() if uid == first)
    (reception.spool.root / path).unlink()
    (reception.spool.root / path).write_bytes(b"other content")
    with monkeypatch.context() as patch:
        patch.setattr("appliance.backup.backup.write_manifest", lambda *_: (_ for _ in ()).throw(OSError("cut short")))
        with pytest.raises(OSError, match="cut short"):
            make_backup(reception.layout.journal, reception.layout.spool, backup)
    restore_backup(backup, StateLayout(tmp_path / "earlier"))
    assert (tmp_path / "earlier" / "spool" / path).stat().st_size > 20_000
    report = make_backup(reception.layout.journal, reception.layout.spool, backup)
    restore_backup(backup, StateLayout(tmp_path / "later"))
    assert (tmp_path / "later" / "spool" / path).read_bytes() == b"other content"
    assert report.manifest.files == 3 == sum(path.is_file() for path in (backup / "spool").rglob("*"))


def test_a_lost_file_is_counted_and_the_rest_saved(reception: Reception, backup: Path, tmp_path: Path) -> None:
    lost, *kept = rows_of(reception.layout)
    (reception.spool.root / lost).unlink()
    report = make_backup(reception.layout.journal, reception.layout.spool, tmp_path / "other")
    assert (report.missing, report.manifest.files) == (1, 2)
    layout = StateLayout(tmp_path / "restored")
    restore_backup(tmp_path / "other", layout)
    assert files_of(layout) == set(kept)


def test_a_folder_with_something_else_is_left_alone(reception: Reception, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(BackupError, match="holds something that is no backup"):
        make_backup(reception.layout.journal, reception.layout.spool, tmp_path / "other")
    with pytest.raises(BackupError, match="there is no backup"):
        restore_backup(tmp_path / "other", StateLayout(tmp_path / "restored"))
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_rejected_files_and_conflicts_are_in_it(reception: Reception, tmp_path: Path) -> None:
    for folder, name in (("rejected", "1/1.bin"), ("rejected", "1/1.json"), ("conflicts", "1.2/ab.dcm")):
        path = reception.spool.root / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(hashlib.sha256(name.encode()).digest())
    Scanner(reception.start_node(), tmp_path / "images").send(1)
    reception.journal.instances.add_rejection("not-dicom", "no", "rejected/1/1.bin", "dropfolder", 1)
    reception.journal.instances.add_rejection("not-dicom", "no", "rejected/2/2.bin", "dropfolder", 1)  # on its way
    reception.journal.instances.add_conflict(1, "ab", "conflicts/1.2/ab.dcm", "dicom", 1)
    report = make_backup(reception.layout.journal, reception.layout.spool, tmp_path / "backup")
    assert (report.manifest.files, report.missing) == (4, 0)
