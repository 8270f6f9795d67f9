"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

from appliance.backends.table import backend_class
from appliance.config.layout import StateLayout
from appliance.journal.journal import Journal
from appliance.journal.records import ModelVersion
from appliance.results.readback import read_report
from tests.support.daemon import Daemon
from tests.support.studies import chest_study


def appliance(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "appliance", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_check_config_names_the_line_and_the_fix(tmp_path: Path) -> None:
    config = tmp_path / "appliance.yaml"
    config.write_text("dicom:\n  port: 11112\n  prot: 4\n")
    done = appliance("check-config", "-c", config)
    assert done.returncode == 78
    assert f"{config}, line 3: dicom.prot is not a setting" in done.stderr


def test_the_shipped_configuration_is_sound() -> None:
    done = appliance("check-config", "-c", Path(__file__).parents[2] / "configs" / "appliance.yaml")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    config = tmp_path / "appliance.yaml"
    config.write_text("models:\n  active: [cxr-lungs]\n")
    done = appliance("check-config", "-c", config)
    assert done.returncode == 78
    assert "there is no model package 'cxr-lungs'" in done.stderr


def test_a_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = appliance("run", "--state-dir", tmp_path / "file" / "state")
    assert done.returncode == 78
    assert "the state folder" in done.stderr
    assert "cannot be used" in done.stderr


def test_status_without_a_journal(tmp_path: Path) -> None:
    done = appliance("status", "--state-dir", tmp_path)
    assert done.returncode == 74
    assert "there is no journal" in done.stderr


def test_models_list_says_what_mends_missing_weights_and_images(tmp_path: Path) -> None:
    done = appliance("models", "list", "--json", "--state-dir", tmp_path)
    assert done.returncode == 0
    models = {row["name"]: row for row in json.loads(done.stdout)}
    assert models["cxr-lung"]["state"] == "unavailable"
    assert "is not here, so it cannot be verified. Get it: appliance models fetch" in models["cxr-lung"]["reason"]
    assert models["mr-brain-extract"]["state"] == "unavailable"
    assert "appliance models fetch mr-brain-extract" in models["mr-brain-extract"]["reason"]


def test_convert_builds_an_engine_and_finds_it_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    first = appliance("models", "convert", "cxr-lung", "--state-dir", tmp_path)
    assert first.returncode == 0, first.stderr
    assert "cxr-lung/lungs" in first.stdout and "7.5, 8.0, 8.6, 8.9, 12.0" in first.stdout
    again = appliance("models", "convert", "cxr-lung", "--state-dir", tmp_path)
    assert "cached" in again.stdout


def test_convert_measures_a_precision_and_builds_what_passes(tmp_path: Path, weights: Path) -> None:
    """The figures stand beside the engine that they are about."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    (tmp_path / "weights").symlink_to(weights)
    done = appliance("models", "convert", "cxr-lung", "--precision", "float16", "--state-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cxr-lung/1.0.0 in float16, against float32:" in done.stdout
    assert re.search(r"Right lung +Dice (0\.99\d\d|1\.0000)  size [+-]0\.\d+%", done.stdout)
    assert re.search(r"cxr-lung/lungs +float16 .* 7\.5, 8\.0, 8\.6, 8\.9, 12\.0", done.stdout)


@pytest.mark.shared_data
def test_convert_to_int8_on_images_of_the_site(tmp_path: Path, weights: Path, shared_data_dir: Path) -> None:
    """What the model does not want is left out, and counted."""
    (tmp_path / "weights").symlink_to(weights)
    folder = tmp_path / "site"
    for number, name in enumerate(["1052b0fe", "2168a917", "2c35005f"]):
        chest_study(shared_data_dir, folder / name, f"site {number}", name)
    (folder / "head.dcm").write_bytes(next((shared_data_dir / "mr_t1_SAG-anon").glob("*.dcm")).read_bytes())
    options = ("--precision", "int8", "--calibrate", folder, "--state-dir", tmp_path)
    done = appliance("models", "convert", "cxr-lung", *options)
    assert done.returncode == 0, done.stderr
    assert "left out (1): Modality is MR" in done.stderr
    assert "image 3 of this site" in done.stdout
    for path in (folder / "1052b0fe").glob("*"):
        path.unlink()
    done = appliance("models", "convert", "cxr-lung", *options)
    assert done.returncode == 65
    assert "too few images to calibrate cxr-lung/1.0.0: found 2 that it can judge" in done.stderr


@pytest.mark.parametrize("options", [["--precision", "int8"], ["--calibrate", "."]], ids=["no-images", "no-int8"])
def test_convert_to_int8_and_images_belong_together(options: list[str], tmp_path: Path) -> None:
    done = appliance("models", "convert", "cxr-lung", *options, "--state-dir", tmp_path)
    assert done.returncode == 78
    assert "--precision int8 --calibrate FOLDER" in done.stderr


def test_convert_without_weights_says_what_mends_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    done = appliance("models", "convert", "mr-brain-extract", "--state-dir", tmp_path)
    assert done.returncode == 69
    assert "appliance models fetch mr-brain-extract" in done.stderr


@pytest.mark.shared_data
def test_infer_writes_the_results_and_prints_them(tmp_path: Path, shared_data_dir: Path) -> None:
    """The numbers printed are those in the SR."""
    chest_study(shared_data_dir, tmp_path / "in", "infer")
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    done = appliance("infer", tmp_path / "in", "--model", "cxr-lung", "-o", tmp_path / "out", "--json",
                     "--state-dir", tmp_path / "state")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    files = {entry["kind"]: Path(entry["path"]) for entry in result["files"]}
    assert set(files) == {"sr", "sc", "seg"}
    printed = [measurement["value"] for finding in result["findings"] for measurement in finding["measurements"]]
    printed += [measurement["value"] for measurement in result["overall"]]
    assert [line.value for line in read_report(dcmread(files["sr"]))] == pytest.approx(
        printed, abs=0.005
    )  # as many decimals as are honest


@pytest.mark.shared_data
def test_infer_runs_what_serves(tmp_path: Path, shared_data_dir: Path) -> None:
    """At the precision that was activated; a version that is named is as its package has it."""
    reason = backend_class("openvino").unavailable("bfloat16")
    if reason is not None:
        pytest.skip(reason)
    chest_study(shared_data_dir, tmp_path / "in", "serving")
    journal = Journal(StateLayout(tmp_path / "state").journal)
    journal.activations.activate("cxr-lung", ModelVersion("1.0.0", "bfloat16"), 100.0)
    journal.close()
    for model, precision in {"cxr-lung": "bfloat16", "cxr-lung/1.0.0": "float32"}.items():
        done = appliance("infer", tmp_path / "in", "--model", model, "-o", tmp_path / "out", "--json",
                         "--state-dir", tmp_path / "state")  # fmt: skip
        assert done.returncode == 0, done.stderr
        (result,) = json.loads(done.stdout)
        assert result["algorithm"]["parameters"]["precision"] == precision


def test_infer_on_what_the_model_does_not_want(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    done = appliance("infer", tmp_path / "in", "--model", "cxr-lung", "-o", tmp_path / "out", "--state-dir", tmp_path)
    assert done.returncode == 65
    assert "there are no DICOM images" in done.stderr


@pytest.mark.slow
def test_run_ends_in_good_order_on_ctrl_c(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    daemon = Daemon(tmp_path, weights=weights)
    daemons.append(daemon)
    daemon.start()
    assert daemon.stop(signal.SIGINT) == 0
    assert not any("Traceback" in line for line in daemon.lines)


@pytest.mark.slow
def test_a_second_appliance_on_the_same_state(daemons: list[Daemon], tmp_path: Path, weights: Path) -> None:
    daemon = Daemon(tmp_path, weights=weights)
    daemons.append(daemon)
    daemon.start()
    done = appliance("role", "receiver", "-c", daemon.config, "--state-dir", daemon.layout.root)
    assert done.returncode == 78
    assert "a receiver runs already on this state folder" in done.stderr


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = tmp_path / "appliance.yaml"
        config.write_text(f"dicom: {{host: 127.0.0.1, port: {taken.getsockname()[1]}}}\n")
        done = appliance("run", "-c", config, "--state-dir", tmp_path / "state")
    assert done.returncode == 78
    assert "Correct dicom.host or dicom.port, or stop what listens there" in done.stderr
