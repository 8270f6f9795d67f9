"""``appliance models import``: through the command line, with the real runtime."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from appliance.cli.main import main
from tests.support.networks import write_network, write_two_channels


@pytest.fixture
def site(tmp_path: Path) -> list[str]:
    """Arguments that name settings with a folder of packages, and a state folder."""
    (tmp_path / "engines").mkdir()
    (tmp_path / "settings.yaml").write_text(f"models: {{folder: {tmp_path / 'engines'}}}\n")
    return ["-c", str(tmp_path / "settings.yaml"), "--state-dir", str(tmp_path / "state")]


def listed(site: list[str], capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    capsys.readouterr()
    assert main(["models", "list", "--json", *site]) == 0
    return [(row["state"], row["reason"] or "") for row in json.loads(capsys.readouterr().out)]


def test_from_a_file_to_a_package_that_can_serve(
    tmp_path: Path, site: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_two_channels(tmp_path / "net.onnx", (1, 1, 32, 48))
    assert main(["models", "import", str(tmp_path / "net.onnx"), "--name", "lungs", *site]) == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "engines" / "lungs" / "1.0.0"
    assert f"lungs/1.0.0: {folder}" in printed
    assert "image: float32 [1, 1, 32, 48]" in printed
    assert "probability: 2 channel(s), probability" in printed
    assert "32 × 48 in " in printed and "onnxruntime" in printed
    assert " 1. title: say in at most 60 characters" in printed

    ((state, reason),) = listed(site, capsys)
    assert state == "not ready"
    assert reason.endswith("without one, every result says that none was checked") and "open point(s): title" in reason
    assert main(["models", "activate", "lungs", *site]) == 65
    assert "lungs/1.0.0 is not ready" in capsys.readouterr().err

    manifest = (folder / "manifest.yaml").read_text()
    points, _, rest = manifest.partition("open_points:")[2].partition("\n\n")
    assert points.count("\n  - ") > 5
    (folder / "manifest.yaml").write_text(manifest.partition("open_points:")[0] + rest)
    assert listed(site, capsys) == [("ready", "")]


def test_another_folder_is_pointed_out(tmp_path: Path, site: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_two_channels(tmp_path / "net.onnx")
    assert main(["models", "import", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "other"), *site]) == 0
    assert f"The appliance looks in {tmp_path / 'engines'}" in capsys.readouterr().out
    assert (tmp_path / "other" / "net" / "1.0.0" / "model.onnx").is_file()


def write_foreign_operator(path: Path) -> Path:
    """Sound by the rules of ONNX, which does not know what other domains have."""
    write_two_channels(path)
    model = onnx.load(path)
    model.graph.node[-1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("probability", TensorProto.FLOAT, [1, 2, 8, 6]))
    onnx.save(model, path)
    return path


def write_huge_weights(path: Path) -> Path:
    """A kernel of a few bytes that says it has terabytes."""
    write_two_channels(path)
    model = onnx.load(path)
    next(tensor for tensor in model.graph.initializer if tensor.name == "weights").dims[0] = 1 << 40
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_foreign_operator, "its shape is unknown, because of operators of com.example"),
        (write_huge_weights, "no sound ONNX file"),
        (
            lambda path: write_network(path, [helper.make_node("Sqrt", ["image"], ["probability"])], more_inputs=["b"]),
            "it has 2 inputs",
        ),
        (lambda path: path.write_bytes(b"rot"), "it is no ONNX file"),
    ],
)
def test_what_cannot_become_a_package_says_why_and_leaves_nothing(
    tmp_path: Path, site: list[str], capsys: pytest.CaptureFixture[str], write: object, reason: str
) -> None:
    write(tmp_path / "net.onnx")  # type: ignore[operator]
    assert main(["models", "import", str(tmp_path / "net.onnx"), *site]) == 65
    error = capsys.readouterr().err
    assert error.startswith("appliance: net.onnx cannot become a model package: ")
    assert reason in error
    assert list((tmp_path / "engines").iterdir()) == []


def test_a_network_that_is_sound_but_does_not_run(
    tmp_path: Path, site: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """1 / 0: the runtime loads it, and gives values that nobody can use."""
    write_network(tmp_path / "net.onnx", [helper.make_node("Reciprocal", ["image"], ["probability"])])
    assert main(["models", "import", str(tmp_path / "net.onnx"), *site]) == 65
    assert "gave values that are not finite" in capsys.readouterr().err
    assert list((tmp_path / "engines").iterdir()) == []
