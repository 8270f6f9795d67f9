"""Who gets an image, and who is woken for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config.settings import DicomDestination, Forward
from appliance.intake import forwarding as forwarding_module
from appliance.intake.forwarding import Forwarding
from appliance.journal.hints import HintSocket
from tests.support.outbox import pacs


def destination(name: str, forward: Forward | None) -> DicomDestination:
    return pacs(104, name).model_copy(update={"forward": forward})


@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ({"Modality": "CT"}, ["chest", "all"]),
        ({"Modality": "MR"}, ["all"]),
        ({}, ["all"]),
    ],
)
def test_who_asks_for_the_modality(tmp_path: Path, attributes: dict[str, str], names: list[str]) -> None:
    forwarding = Forwarding(
        [
            destination("none", None),
            destination("chest", Forward(modalities=["CT", "DX"])),
            destination("all", Forward()),
        ],
        tmp_path,
    )
    assert forwarding.destinations(attributes) == names


def test_none_gets_back_what_it_sent(tmp_path: Path) -> None:
    forwarding = Forwarding([destination("pacs", Forward())], tmp_path)
    assert forwarding.destinations({}, "PACS") == []
    assert forwarding.destinations({}, "SCANNER") == ["pacs"]


def test_one_hint_for_a_stream_and_one_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ear, other = HintSocket(tmp_path, "sender-all"), HintSocket(tmp_path, "sender-other")
    monkeypatch.setattr(forwarding_module, "_HINT_S", 60.0)
    forwarding = Forwarding([destination("all", Forward())], tmp_path)
    forwarding.wake(["all"])
    assert ear.wait(5)
    for _ in range(10):
        forwarding.wake(["all"])
    assert not ear.wait(0)
    monkeypatch.setattr(forwarding_module, "_HINT_S", 0.0)
    forwarding.wake(["all"])
    assert ear.wait(5)
    assert not other.wait(0)
    ear.close()
    other.close()
