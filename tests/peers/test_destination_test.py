"""``appliance destinations test``: what a destination accepts, seen before a patient's result needs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom import dcmread

from appliance.cli.main import main
from appliance.domain.forms import FORMS
from tests.support.peers import DcmtkStoreScp, FakePacs, Orthanc
from tests.support.ports import free_port

pytestmark = pytest.mark.peer


def _settings(folder: Path, ae_title: str, port: int, results: str = "[sr, seg, sc]") -> str:
    path = folder / "appliance.yaml"
    entry = f"{{kind: dicom, name: pacs, ae_title: {ae_title}, host: 127.0.0.1, port: {port}, results: {results}}}"
    path.write_text(f"destinations:\n- {entry}\n- {{kind: folder, name: disk, path: {folder / 'disk'}}}\n")
    return str(path)


def test_dcmtk_takes_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with DcmtkStoreScp(tmp_path / "in") as peer:
        config = _settings(tmp_path, "ANY", peer.port)
        assert main(["destinations", "test", "pacs", "-c", config]) == 0
        first = sorted(path.name for path in peer.folder.iterdir())
        assert main(["destinations", "test", "pacs", "-c", config]) == 0
        assert sorted(path.name for path in peer.folder.iterdir()) == first, "to test again adds nothing"
    shown = capsys.readouterr().out
    for form in FORMS:
        assert f"\n    {form} " in shown
    received = [dcmread(path) for path in (tmp_path / "in").iterdir()]
    assert len(received) == len(FORMS)
    for dataset in received:
        assert dataset.PatientID == "APPLIANCE-TEST" and "NOT A PATIENT" in dataset.SeriesDescription


def test_orthanc_keeps_one_study_of_nobody(tmp_path: Path) -> None:
    with Orthanc(tmp_path / "orthanc") as peer:
        assert main(["destinations", "test", "pacs", "-c", _settings(tmp_path, "ORTHANC", peer.port)]) == 0
        assert len(json.loads(peer.request("/studies"))) == 1 and len(peer.instances()) == len(FORMS)


def test_what_it_refuses_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong only when the settings send it: a PACS without SEG is told apart from one that lacks what nobody sends."""
    with FakePacs() as peer:
        assert main(["destinations", "test", "pacs", "-c", _settings(tmp_path, "PACS", peer.port), "--json"]) == 0
        answers = {answer["form"]: answer for answer in json.loads(capsys.readouterr().out)}
        assert {form for form, answer in answers.items() if answer["accepted"]} == {"sr", "seg", "sc"}
        assert "does not take Grayscale Softcopy Presentation State Storage" in answers["gsps"]["words"]
        config = _settings(tmp_path, "PACS", peer.port, "[sr, gsps]")
        assert main(["destinations", "test", "pacs", "-c", config]) == 1


def test_an_answer_that_is_a_failure_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakePacs(script=[0xC001]) as peer:
        config = _settings(tmp_path, "PACS", peer.port)
        assert main(["destinations", "test", "pacs", "-c", config]) == 1
    assert "0xC001 (cannot understand)" in capsys.readouterr().out


def test_one_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _settings(tmp_path, "PACS", free_port())
    assert main(["destinations", "test", "pacs", "-c", config]) == 1
    assert "connection refused" in capsys.readouterr().err
    assert main(["destinations", "test", "radiology", "-c", config]) == 78
    assert "found pacs, disk" in capsys.readouterr().err


def test_a_folder(tmp_path: Path) -> None:
    config = _settings(tmp_path, "PACS", free_port())
    assert main(["destinations", "test", "disk", "-c", config]) == 1, "the folder is not there"
    (tmp_path / "disk").mkdir()
    assert main(["destinations", "test", "disk", "-c", config]) == 0
    assert len(list((tmp_path / "disk").rglob("*.dcm"))) == len(FORMS)
