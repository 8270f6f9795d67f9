"""A short campaign against each target, always of the same cases: first the corpus, with all that was ever found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.campaign import TARGETS, Campaign
from tests.fuzz.process import load_target
from tests.fuzz.slot import Slot

_CASES = {"dataset": 2000, "pixels": 400, "association": 400, "dropfolder": 400}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_crash_no_hang_and_bounded_memory(target: str, tmp_path: Path) -> None:
    found = Campaign(target, cases=_CASES[target], seed=4, defects=tmp_path).run()
    reports = [path.read_text()[-3000:] for path in tmp_path.iterdir() if path.suffix != ".bin"]
    assert (found.crashes, found.hangs, reports) == (0, 0, [])


def test_a_case_is_known_by_its_number() -> None:
    kind = load_target("dataset")
    corpus = kind.corpus()
    assert [kind.case(7, number, corpus) for number in range(20, 40)] == [
        kind.case(7, number, corpus) for number in range(20, 40)
    ]
    assert kind.case(7, 30, corpus) != kind.case(8, 30, corpus)


def test_the_case_at_hand_survives_its_process(tmp_path: Path) -> None:
    slot = Slot(tmp_path / "slot")
    slot.begin(3, b"case", 10.0)
    seen = Slot(tmp_path / "slot")
    assert (seen.number, seen.case, seen.began, seen.done) == (3, b"case", 10.0, 0)
    slot.end(10.5)
    assert (seen.began, seen.done, seen.slowest) == (0.0, 1, (0.5, 3))
