"""The benchmark on small real networks, on the real runtimes, in processes of its own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import NoReturn

import pytest
import yaml

from appliance.cli.acceptance import Acceptance
from appliance.cli.main import main
from appliance.errors import InferenceFailed
from appliance.pipeline.benchmark import Growth, _apart
from tests.unit.pipeline.test_verification import VOLUME_ML, package_with


def bench(tmp_path: Path, *arguments: str, value: float = VOLUME_ML, golden: bool = True) -> int:
    """Run the command on one package of two networks."""
    folder = tmp_path / "engines" / "bright" / "1.0.0"
    folder.parent.mkdir(parents=True)
    package_with(folder, value=value)
    if not golden:
        content = yaml.safe_load((folder / "manifest.yaml").read_text())
        (folder / "manifest.yaml").write_text(yaml.safe_dump(content | {"golden": []}))
    (tmp_path / "appliance.yaml").write_text(yaml.safe_dump({"models": {"folder": str(tmp_path / "engines")}}))
    options = ["-c", str(tmp_path / "appliance.yaml"), "--state-dir", str(tmp_path / "state"), "--seconds", "0.1"]
    return main(["models", "bench", "--all", *options, *arguments])


def test_every_backend_gets_a_line_with_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tmp_path, "--precision", "float32", "--json") == 0
    rows = {row["backend"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {"onnxruntime", "openvino"} <= set(rows)
    for row in rows.values():
        assert (row["model"], row["input"], row["precision"]) == ("bright/1.0.0", "ball", "float32")
        assert row["runs"] >= 3
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["bare_p50_ms"] > 0 and row["ratio"] > 0
        assert 0 < row["load_s"] < 60
        assert 40 < row["memory_mb"] < 2000
        assert row["passed"] and row["least_dice"] > 0.99


def test_a_package_without_images_is_measured_on_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tmp_path, "--backend", "onnxruntime", "--json", golden=False) == 0
    (row,) = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["precision"] == "float32"]
    assert (row["input"], row["least_dice"]) == ("noise", None)


def test_the_acceptance_passes_and_says_what_it_cannot_prove(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tmp_path, "--acceptance", "--backend", "openvino") == 0
    out = capsys.readouterr().out
    for what in ("parity", "time", "speed next to the bare runtime", "memory"):
        assert f"PASS  bright/1.0.0 on openvino in float32: {what}: " in out
    assert "FAIL" not in out
    assert "NOT PROVEN  that a GPU runs the models" in out
    assert "PASSED: " in out


def test_the_acceptance_fails_when_a_number_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tmp_path, "--acceptance", "--backend", "openvino", "--json", value=2 * VOLUME_ML) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is False
    (failed,) = [check for check in report["checks"] if not check["passed"]]
    assert "parity" in failed["what"]
    assert "expected" in failed["detail"]


def test_memory_that_grows_fails() -> None:
    report = Acceptance()
    report.check_growth("model", Growth(images=100, before_mb=500, after_mb=530, allowed_mb=57))
    assert report.passed
    report.check_growth("model", Growth(images=100, before_mb=500, after_mb=600, allowed_mb=57))
    assert not report.passed
    assert "FAIL  model: memory: 500 MB before, 600 MB after 100 images" in str(report)
    report = Acceptance()
    report.check_growth("model", Growth(100, 500, 500, 57, device_before_mb=900, device_after_mb=1000))
    assert "FAIL" in str(report) and "on the GPU 900 and 1000 MB" in str(report)


def test_nothing_checked_is_nothing_passed() -> None:
    assert not Acceptance().passed


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_crash_in_native_code_is_an_error_like_any_other() -> None:
    with pytest.raises(InferenceFailed, match="the process that measured died"):
        _apart(die)
