"""Deletion by age and for space, with real files; and what an interruption at any point leaves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config.settings import Retention, Settings, Storage
from appliance.journal.journal import Journal
from appliance.journal.retention import Limits
from appliance.observability.metrics import Metrics
from appliance.retention.keeper import Keeper
from appliance.retention.outlook import room_days
from appliance.retention.removal import Removal
from appliance.spool.spool import Spool
from tests.support.waiting import wait_for
from tests.unit.journal.makers import claim, complete, queue_job, received, register, succeed

NOW = 100 * 86400.0


class Bench:
    """A state folder with studies that were judged, each a file of images and a folder of results."""

    def __init__(self, root: Path) -> None:
        self.journal = Journal(root / "journal" / "journal.sqlite3")
        self.spool = Spool(root / "spool")
        self.metrics = Metrics()
        self.removal = Removal(self.journal, self.spool)

    def keeper(self, *, min_free_bytes: int = 0, **retention: float | None) -> Keeper:
        """A keeper with these settings."""
        settings = Settings(
            storage=Storage(min_free_bytes=min_free_bytes), retention=Retention.model_validate(retention)
        )
        return Keeper(settings, self.journal, self.spool, self.metrics, on_fatal=lambda: None)

    def study(self, name: str, *, days: float, judged: bool = True) -> Path:
        """A study of one image that came so many days ago; return its file."""
        at = NOW - days * 86400
        queue_job(self.journal, name, at=at)
        path = self.spool.absolute(received(f"{name}.3", series=f"{name}.2", study=f"{name}.1").path)
        self.put(path)
        complete(self.journal, at + 60, [])
        job = claim(self.journal, now=at + 60)
        self.put(self.spool.results_folder(job.job_id, 1) / "sr.dcm")
        if judged:
            succeed(self.journal, job, now=at + 60, destinations=[])
        return path

    def put(self, path: Path) -> Path:
        """A file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
        return path

    def files(self) -> list[str]:
        """All files of the spool."""
        return sorted(self.spool.relative(path) for path in self.spool.root.rglob("*") if path.is_file())

    def delete_rows(self) -> None:
        """As if the process had ended right after the commit."""
        for study in self.journal.retention.studies(NOW):
            assert self.journal.retention.delete_series(study, Limits(NOW, NOW), reason="age", now=NOW)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.journal.close()


def test_what_is_too_old_goes_with_its_files_and_folders(bench: Bench) -> None:
    for name, days in (("1", 40.0), ("2", 31.0), ("3", 29.0)):
        bench.study(name, days=days)
    bench.keeper().delete_old(NOW)
    assert bench.files() == ["instances/3.1/3.2/3.3.dcm", "results/3/1/sr.dcm"]
    assert [path.name for path in bench.spool.instances.iterdir()] == ["3.1"]
    assert bench.journal.tombstones.waiting() == []
    assert [deletion.reason for deletion in bench.journal.retention.newest(9)] == ["age", "age"]


def test_null_keeps_whatever_the_age(bench: Bench) -> None:
    path = bench.study("1", days=90)
    bench.keeper(max_age_days=None).delete_old(NOW)
    assert path.exists()


def test_what_is_needed_stays_and_is_counted(bench: Bench) -> None:
    path = bench.study("1", days=90, judged=False)
    bench.keeper().delete_old(NOW)
    assert path.exists()
    [family] = bench.metrics.held_studies.collect()
    assert {sample.labels["hold"]: sample.value for sample in family.samples if sample.value} == {"job": 1}


def test_rejected_files_go_with_the_same_age(bench: Bench) -> None:
    for days in (40, 20):
        bench.put(bench.spool.rejected / f"{days}" / f"{days}.bin")
        at = NOW - days * 86400
        bench.journal.instances.add_rejection("not-dicom", "no", f"rejected/{days}/{days}.bin", "dropfolder", at)
    bench.keeper().delete_old(NOW)
    assert bench.files() == ["rejected/20/20.bin"]
    assert bench.journal.overview.kept_apart().rejections == 1


def test_the_oldest_make_room_until_there_is_enough(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, days in (("1", 3.0), ("2", 2.0), ("3", 1.0), ("4", 0.01)):
        bench.study(name, days=days)
    # The disk of a test cannot be filled: it is one on which nothing else lies.
    monkeypatch.setattr(bench.spool, "free_bytes", lambda: 10_000 - 1000 * len(bench.files()))
    keeper = bench.keeper(target_free_bytes=5000)
    keeper.make_room(NOW)
    assert [name for name in ("1", "2", "3", "4") if f"instances/{name}.1/{name}.2/{name}.3.dcm" in bench.files()] == [
        "3", "4"
    ]  # fmt: skip
    monkeypatch.setattr(bench.spool, "free_bytes", lambda: 0)
    keeper.make_room(NOW)  # the last one is too young, whatever the disk has
    assert bench.files() == ["instances/4.1/4.2/4.3.dcm", "results/4/1/sr.dcm"]
    assert {total.reason: total.studies for total in bench.journal.retention.totals()} == {"age": 0, "space": 3}


def test_deletion_begins_before_images_are_refused() -> None:
    assert Settings(storage=Storage(min_free_bytes=100)).retention_target_free_bytes == 200
    with pytest.raises(ValueError, match="images would be refused first"):
        Settings(storage=Storage(min_free_bytes=100), retention=Retention(target_free_bytes=100))


def test_an_end_after_the_commit_leaves_files_that_the_next_start_removes(bench: Bench) -> None:
    bench.study("1", days=40)
    bench.delete_rows()
    assert len(bench.files()) == 2
    bench.removal.take_up()
    assert bench.files() == [] and bench.journal.tombstones.waiting() == []


def test_an_end_while_files_are_removed_leaves_none(bench: Bench) -> None:
    path = bench.study("1", days=40)
    bench.delete_rows()
    path.rename(bench.spool.trash / "instances+1.1+1.2+1.3.dcm")
    bench.removal.take_up()
    assert bench.files() == [] and list(bench.spool.instances.iterdir()) == []


def test_an_image_that_came_again_in_the_meantime_stays(bench: Bench) -> None:
    path = bench.study("1", days=40)
    bench.delete_rows()
    register(bench.journal, received("1.3", series="1.2", study="1.1", at=NOW))
    bench.removal.take_up()
    assert bench.files() == [bench.spool.relative(path)]


def test_an_image_that_is_just_coming_again_stays(bench: Bench) -> None:
    """It has its place and its first name, but no row yet."""
    path = bench.study("1", days=40)
    bench.delete_rows()
    arrival = bench.spool.incoming.new("dicom")
    arrival.promise(NOW)
    bench.spool.incoming.place(arrival.path, path)
    bench.removal.take_up()
    assert path.samefile(arrival.path)
    arrival.close()


def test_an_image_that_was_moved_to_the_trash_just_as_it_came_gets_its_place_back(bench: Bench) -> None:
    path = bench.study("1", days=40)
    bench.delete_rows()
    path.rename(bench.spool.trash / "instances+1.1+1.2+1.3.dcm")
    register(bench.journal, received("1.3", series="1.2", study="1.1", at=NOW))
    bench.removal.take_up()
    assert path.exists()


def test_a_conflict_that_has_just_come_again_stays(bench: Bench) -> None:
    bench.study("1", days=40)
    old, new = (bench.put(bench.spool.conflict_path("1.3", name)) for name in ("old", "new"))
    bench.journal.instances.add_conflict(1, "old", bench.spool.relative(old), "dicom", 1)
    bench.delete_rows()
    os.utime(old, (NOW - 1, NOW - 1))
    bench.removal.take_up()
    assert (old.exists(), new.exists()) == (False, True)


def test_the_results_of_a_new_job_with_an_old_number_stay(bench: Bench) -> None:
    bench.study("1", days=40)
    bench.delete_rows()
    bench.study("2", days=1)  # its job is number 1 again
    bench.removal.take_up()
    assert "results/1/1/sr.dcm" in bench.files()


def test_the_thread_works_and_ends(bench: Bench) -> None:
    bench.study("1", days=90)
    keeper = bench.keeper()
    keeper.start()
    wait_for(lambda: bench.journal.retention.newest(1) and not bench.journal.tombstones.waiting())
    keeper.stop()
    assert bench.files() == []


def test_how_long_the_disk_lasts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert room_days(bench.journal, bench.spool, 0) == float("inf")
    register(bench.journal, received("1", at=time.time() - 2 * 86400))
    register(bench.journal, received("2", at=time.time()))
    monkeypatch.setattr(bench.spool, "free_bytes", lambda: 6000)
    assert room_days(bench.journal, bench.spool, 1000) == pytest.approx(5, rel=0.01)
