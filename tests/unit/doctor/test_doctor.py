"""What the doctor finds in a state folder that was harmed, and what it mends."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.main import main
from appliance.config.layout import StateLayout
from appliance.domain.states import Scope
from appliance.intake.store import Outcome
from tests.support.received_files import data_set, part10
from tests.support.reception import Reception, model
from tests.unit.journal.makers import claim, succeed

IMAGES = ("1.2.3.1", "1.2.3.2", "1.2.3.3")


def send(reception: Reception, uid: str) -> Outcome:
    """An image comes."""
    incoming = reception.spool.incoming.new("dicom")
    incoming.write(part10(data_set(instance=uid), instance=uid))
    outcome = reception.store.accept(incoming, received_at=time.time()).outcome
    incoming.close()
    reception.store.confirm()
    return outcome


class State:
    """A state folder with a series of three images, of which the first was judged."""

    def __init__(self, root: Path) -> None:
        self.layout = StateLayout(root)
        for folder in self.layout.folders:
            folder.mkdir(parents=True, exist_ok=True)
        self.config = root.parent / "appliance.yaml"
        self.config.write_text(json.dumps({"storage": {"min_free_bytes": 0}}))
        reception = self.reception()
        assert [send(reception, uid) for uid in IMAGES] == [Outcome.STORED] * 3
        job = claim(reception.journal, now=time.time())
        succeed(reception.journal, job, kinds=["sr"], now=time.time())
        self.result = reception.spool.results_folder(job.job_id, 1) / "sr.dcm"
        self.result.write_bytes(bytes(2000))
        self.close(reception)
        digest = hashlib.sha256(bytes(2000)).hexdigest()
        self.sql(f"UPDATE result SET path = 'results/1/1/sr.dcm', sha256 = '{digest}'")
        self.image = self.layout.spool / "instances" / "1.2.3" / "1.2.3.4" / f"{IMAGES[1]}.dcm"

    def reception(self) -> Reception:
        """Everything that takes images in, with a model for single ones."""
        return Reception(self.layout.root, models=[model("one", scope=Scope.INSTANCE)])

    @staticmethod
    def close(reception: Reception) -> None:
        """Stop it."""
        reception.spool.incoming.close()
        reception.stop()

    def sql(self, statement: str) -> list[Any]:
        """Change the journal by hand."""
        with closing(sqlite3.connect(self.layout.journal, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()

    def doctor(self, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, dict[str, str]]]:
        """Exit code, and what is not well by what it is."""
        command = ["doctor", "-c", str(self.config), "--state-dir", str(self.layout.root), "--json", *options]
        code = main(command)
        findings = json.loads(capsys.readouterr().out)
        return code, {one["what"]: one for one in findings if one["verdict"] != "well"}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    return State(tmp_path / "state")


def test_a_sound_state(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    assert state.doctor(capsys, "--deep") == (0, {})
    assert state.doctor(capsys, "--repair") == (0, {})
    code = main(["doctor", "-c", str(state.config), "--state-dir", str(state.layout.root)])
    text = capsys.readouterr().out
    assert code == 0 and text.endswith("All is well.\n") and "WELL    journal file           sound" in text


def test_a_lost_image_is_noted_and_has_its_place_when_it_is_sent_again(
    state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    state.image.unlink()
    code, found = state.doctor(capsys)
    assert code == 1 and "the files of 1 are gone; they belong to series 1" in found["images"]["found"]
    assert "again" in found["images"]["mend"]
    assert state.sql("SELECT * FROM lost_instance") == [], "nothing is changed without --repair"
    assert state.doctor(capsys, "--repair")[0] == 1
    reception = state.reception()
    assert reception.journal.overview.lost() == {1: 1}
    assert send(reception, IMAGES[1]) == Outcome.DUPLICATE
    assert state.image.is_file() and reception.journal.overview.lost() == {}
    state.close(reception)
    assert state.doctor(capsys, "--deep") == (0, {})


def test_a_lost_image_that_was_copied_back(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    state.image.rename(state.image.with_suffix(".away"))
    state.doctor(capsys, "--repair")
    state.image.with_suffix(".away").rename(state.image)
    code, found = state.doctor(capsys, "--repair")
    assert (code, found["lost images"]["verdict"]) == (0, "mended")


def test_an_image_without_a_row_is_registered_again(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    for table in ("job", "assessment", "instance"):
        state.sql(f"DELETE FROM {table} WHERE instance_id = 2")
    code, found = state.doctor(capsys)
    assert code == 1 and "appliance doctor --repair" in found["images without a row"]["mend"]
    assert "image of a series receiving: 3 counted, 2 there" in found["journal counts"]["found"]
    code, found = state.doctor(capsys, "--repair")
    assert found["images without a row"]["verdict"] == "mended"
    reception = state.reception()
    assert reception.store.recover() == 1
    assert send(reception, IMAGES[1]) == Outcome.DUPLICATE
    state.close(reception)
    assert state.doctor(capsys, "--deep") == (0, {})


def test_a_file_that_is_no_image_is_left_to_somebody(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    state.image.with_name("notes.txt").write_text("of somebody")
    code, found = state.doctor(capsys, "--repair")
    assert code == 1 and "look at them" in found["images without a row"]["mend"]
    assert state.image.with_name("notes.txt").exists()


def test_counts_are_counted_anew(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    state.sql("UPDATE tally SET rows = rows + 5 WHERE machine = 'job' AND state = 'succeeded'")
    state.sql("UPDATE delivery_tally SET rows = 7")
    code, found = state.doctor(capsys)
    assert code == 1 and "job succeeded: 6 counted, 1 there" in found["journal counts"]["found"]
    assert state.doctor(capsys, "--repair")[0] == 0
    assert state.doctor(capsys) == (0, {})


def test_changed_files(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(state.image.read_bytes())
    content[-1] ^= 1
    state.image.chmod(0o600)
    state.image.write_bytes(content)
    assert state.doctor(capsys)[0] == 0, "the size is the same"
    code, found = state.doctor(capsys, "--deep")
    assert code == 1 and "image of series 1" in found["files"]["found"]
    state.image.write_bytes(content[:-2])
    assert state.doctor(capsys)[0] == 1


def test_a_lost_result(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    state.result.unlink()
    code, found = state.doctor(capsys)
    assert code == 1 and "made by job 1" in found["results"]["found"]


def test_a_damaged_journal(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    pages = state.layout.journal.stat().st_size // 4096
    with state.layout.journal.open("r+b") as stream:
        [root] = state.sql("SELECT rootpage FROM sqlite_schema WHERE name = 'event_row'")[0]
        assert root <= pages
        stream.seek((root - 1) * 4096)
        stream.write(b"!" * 100)
    code, found = state.doctor(capsys)
    assert code == 1 and "appliance restore" in found["journal file"]["mend"]


def test_a_reference_to_nothing(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    state.sql("INSERT INTO stage VALUES (99, 1, 'load', 1.0)")
    code, found = state.doctor(capsys)
    assert code == 1 and "stage to job" in found["journal references"]["found"]


def test_a_clock_that_was_set_back(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    state.sql(f"UPDATE instance SET received_at = {time.time() + 7200} WHERE instance_id = 3")
    code, found = state.doctor(capsys)
    assert code == 1 and "in the future" in found["clock"]["found"]


def test_a_job_that_nobody_takes_back(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    reception = state.reception()
    claim(reception.journal, now=time.time())
    state.close(reception)
    state.sql(f"UPDATE job SET lease_until = {time.time() - 1000} WHERE state = 'running'")
    code, found = state.doctor(capsys)
    assert code == 0 and "Start the workers" in found["running jobs"]["mend"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    os.chown(state.layout.journal, 65534, -1)
    code, found = state.doctor(capsys)
    assert code == 1 and "chown -R" in found["rights"]["mend"]


def test_a_damaged_cache(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    entry = state.layout.engines / "0123"
    entry.mkdir(parents=True)
    (entry / "engine.json").write_text('{"bytes": 3}')
    (entry / "engine.plan").write_bytes(b"12")
    assert "damaged" in state.doctor(capsys)[1]["cache"]["found"]
    (entry / "engine.plan").write_bytes(b"123")
    assert "cache" not in state.doctor(capsys)[1]


def test_an_old_journal_is_written_anew(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(state.layout.journal, isolation_level=None)) as connection:
        for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA auto_vacuum = NONE", "VACUUM"):
            connection.execute(statement)
    code, found = state.doctor(capsys)
    assert code == 0 and found["journal size"]["verdict"] == "note"
    assert state.doctor(capsys, "--repair")[1]["journal size"]["verdict"] == "mended"
    assert "journal size" not in state.doctor(capsys)[1]
    assert state.sql("PRAGMA journal_mode") == [("wal",)]


def test_nothing_is_mended_while_a_role_runs(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    with (state.layout.run / "sender.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["doctor", "-c", str(state.config), "--state-dir", str(state.layout.root), "--repair"]) == 78
    assert "a sender runs already" in capsys.readouterr().err


def test_where_there_is_no_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--state-dir", str(tmp_path)]) == 74
    assert "there is no journal" in capsys.readouterr().err
