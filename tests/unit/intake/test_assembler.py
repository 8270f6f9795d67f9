"""The assembler: series become complete in time, once, and the models are asked."""

from __future__ import annotations

import time
from pathlib import Path

from appliance.intake.assembler import Assembler
from appliance.intake.store import Acceptance
from tests.support.received_files import data_set, part10
from tests.support.reception import Reception, model
from tests.support.waiting import wait_for


def accept(reception: Reception, number: int, series: str = "1.2.3") -> Acceptance:
    incoming = reception.file(part10(data_set(series=series, instance=f"{series}.{number}")))
    try:
        return reception.store.accept(incoming, received_at=time.time())
    finally:
        incoming.close()


def series_states(reception: Reception) -> list[tuple[str, int, str]]:
    return [tuple(row) for row in reception.rows("SELECT state, revision, sign FROM series ORDER BY series_id")]


def test_stable_age(tmp_path: Path) -> None:
    reception = Reception(tmp_path, models=[model(min_images=2), model("big", min_images=3)], stable_age_s=0.2)
    reception.assembler.start()
    accept(reception, 1)
    accept(reception, 2)
    wait_for(lambda: series_states(reception) == [("complete", 1, "stable age")])
    assert dict(reception.rows("SELECT model, refusal FROM assessment")) == {
        "ct-model": None,
        "big": "2 image(s), wants at least 3",
    }
    assert reception.rows("SELECT model, state FROM job") == [("ct-model", "queued")]
    reception.stop()
    assert not reception.fatal.is_set()


def test_an_end_mark_is_seen_to_at_once(tmp_path: Path) -> None:
    reception = Reception(tmp_path, models=[model()])
    reception.assembler.start()
    accepted = accept(reception, 1)
    started = time.monotonic()
    reception.assembler.settle([accepted.series_id or 0], time.time(), "association released")
    wait_for(lambda: series_states(reception) == [("complete", 1, "association released")])
    assert time.monotonic() - started < 0.5, "the poll alone would take up to a second"
    reception.stop()


def test_a_late_image_opens_the_next_revision(tmp_path: Path) -> None:
    reception = Reception(tmp_path, models=[model()], stable_age_s=0.1)
    reception.assembler.start()
    accept(reception, 1)
    wait_for(lambda: series_states(reception) == [("complete", 1, "stable age")])
    accept(reception, 2)
    wait_for(lambda: series_states(reception) == [("complete", 2, "stable age")])
    assert reception.rows("SELECT revision, state FROM job") == [(1, "superseded"), (2, "queued")]
    reception.stop()


def test_what_became_due_while_it_was_down(tmp_path: Path) -> None:
    reception = Reception(tmp_path, models=[model()], stable_age_s=0.01)
    accept(reception, 1)
    reception.assembler.start()
    wait_for(lambda: series_states(reception)[0][0] == "complete")
    reception.stop()


def test_its_failure_ends_the_role(tmp_path: Path, monkeypatch) -> None:
    reception = Reception(tmp_path)

    def failing(self: Assembler) -> None:
        raise ValueError("no more")

    monkeypatch.setattr(Assembler, "_complete", failing)
    reception.assembler.start()
    accept(reception, 1)
    reception.journal.instances.settle([1], 0.0, "test")
    assert reception.fatal.wait(5)
    reception.stop()
