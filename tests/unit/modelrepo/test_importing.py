"""A package from a bare ONNX file: sound, with its open points, whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from appliance.errors import ConfigurationError, ModelPackageError
from appliance.manifest.manifest import Manifest
from appliance.manifest.reader import read_manifest
from appliance.manifest.steps import CropToForeground, Resize
from appliance.modelrepo.importing import import_network
from appliance.modelrepo.repository import ModelRepository
from tests.support.networks import write_network, write_two_channels


def accept(model: Path, manifest: Manifest) -> None:
    """A trial that every network passes."""


def imported(source: Path, engines: Path, name: str | None = None, version: str = "1.0.0") -> Manifest:
    folder, _, manifest = import_network(source, engines, name=name, version=version, trial=accept)
    assert folder == engines / manifest.name / manifest.version
    assert read_manifest(folder / "manifest.yaml") == manifest
    return manifest


def write_convolution(path: Path, axes: tuple[int | str, ...], channels: int, *last: str) -> Path:
    weights = np.ones((channels, 1, *[1] * len(axes)), np.float32)
    nodes = [helper.make_node("Conv", ["image", "weights"], ["mixed" if last else "probability"])]
    nodes += [helper.make_node(operator, ["mixed"], ["probability"], axis=1) for operator in last]
    return write_network(path, nodes, shape=(1, 1, *axes), constants={"weights": weights})


def test_a_radiograph_network(tmp_path: Path) -> None:
    source = write_two_channels(tmp_path / "Lung Fields_v2.onnx", (1, 1, 8, 6))
    manifest = imported(source, tmp_path / "engines")
    assert manifest.key == "lung-fields-v2/1.0.0"
    assert (manifest.input.kind, manifest.scope, manifest.activation) == ("projection", "instance", "manual")
    (stage,) = manifest.stages
    assert (stage.input_tensor, stage.output_tensor, stage.input_shape) == ("image", "probability", [1, 1, 8, 6])
    assert stage.profile is None
    assert manifest.readout.kind == "threshold"
    assert [structure.channel for structure in manifest.readout.structures] == [0, 1]
    folder = tmp_path / "engines" / "lung-fields-v2" / "1.0.0"
    assert (folder / "model.onnx").read_bytes() == source.read_bytes()
    assert manifest.weights[0].sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert "Lung Fields_v2.onnx" in (folder / "MODEL_CARD.md").read_text()
    assert folder.stat().st_mode & 0o777 == 0o755


def test_every_open_point_stands_where_it_has_to_be_settled(tmp_path: Path) -> None:
    manifest = imported(write_convolution(tmp_path / "net.onnx", ("d", "h", "w"), 2), tmp_path / "engines")
    text = (tmp_path / "engines" / "net" / "1.0.0" / "manifest.yaml").read_text()
    marked = [line.strip()[len("# OPEN: ") :] for line in text.splitlines() if line.strip().startswith("# OPEN: ")]
    assert marked == manifest.open_points
    assert {point.partition(":")[0] for point in marked} >= {"title", "match", "steps", "structures", "licence"}


def test_free_axes_of_a_volume_become_a_profile(tmp_path: Path) -> None:
    manifest = imported(write_convolution(tmp_path / "net.onnx", ("d", "h", "w"), 2), tmp_path / "engines")
    (stage,) = manifest.stages
    assert stage.profile is not None
    assert stage.profile.min < stage.profile.typical < stage.input_shape
    assert any(isinstance(step, CropToForeground) for step in stage.steps)


@pytest.mark.parametrize("axes", [(16, "h", "w"), ("h", "w")])
def test_other_free_axes_get_one_size(tmp_path: Path, axes: tuple[int | str, ...]) -> None:
    manifest = imported(write_convolution(tmp_path / "net.onnx", axes, 2), tmp_path / "engines")
    (stage,) = manifest.stages
    assert stage.profile is None
    (resize,) = [step for step in stage.steps if isinstance(step, Resize)]
    assert resize.shape == stage.input_shape[2:]
    assert any(point.startswith("input_shape: ") for point in manifest.open_points)


@pytest.mark.parametrize(
    ("channels", "last", "kind", "structures", "point"),
    [
        (4, ["Softmax"], "argmax", [1, 2, 3], None),
        (4, [], "labels", [1, 2, 3], "readout: the channels are scores"),
        (1, [], "threshold", [0], "readout: the one channel does not come from a sigmoid"),
    ],
)
def test_how_the_output_is_read(
    tmp_path: Path, channels: int, last: list[str], kind: str, structures: list[int], point: str | None
) -> None:
    manifest = imported(write_convolution(tmp_path / "net.onnx", (8, 8), channels, *last), tmp_path / "engines")
    assert manifest.readout.kind == kind
    assert [structure.channel for structure in manifest.readout.structures] == structures
    assert [p for p in manifest.open_points if p.startswith("readout")] == [
        p for p in manifest.open_points if point is not None and p.startswith(point)
    ]


def test_names_in_the_file_cannot_write_into_the_manifest(tmp_path: Path) -> None:
    """YAML and Markdown have characters that mean something; a network's author chooses names."""
    source = write_two_channels(tmp_path / "net.onnx")
    hostile = 'a"\nlicence: MIT # | \\ \u2028 é'
    model = onnx.load(source)
    model.graph.output[0].name = model.graph.node[-1].output[0] = hostile
    helper.set_model_props(model, {"author": "x: {y} | # z", "licence": "[a, b]"})
    onnx.save(model, source)
    manifest = imported(source, tmp_path / "engines")
    assert manifest.stages[0].output_tensor == hostile
    assert (manifest.algorithm.manufacturer, manifest.licence) == ("x: {y} | # z", "[a, b]")


def test_it_is_not_ready_until_every_point_is_settled(tmp_path: Path) -> None:
    imported(write_two_channels(tmp_path / "net.onnx"), tmp_path / "engines")
    package = ModelRepository(tmp_path / "engines", tmp_path / "weights").find("net")
    for check in (package.require_presence, package.require_weights):
        with pytest.raises(ModelPackageError, match=r"net/1\.0\.0 is not ready: found \d+ open point\(s\): title: "):
            check()
    path = package.folder / "manifest.yaml"
    text = path.read_text()
    path.write_text(text.replace("open_points:\n", "", 1).replace('  - "', '# settled "'))
    settled = ModelRepository(tmp_path / "engines", tmp_path / "weights").find("net")
    assert settled.manifest.open_points == []
    assert list(settled.require_weights()) == ["model.onnx"]


def test_a_network_that_does_not_run_leaves_nothing(tmp_path: Path) -> None:
    def refuse(model: Path, manifest: Manifest) -> None:
        assert model.is_file()
        raise ModelPackageError("it does not run")

    source = write_two_channels(tmp_path / "net.onnx")
    with pytest.raises(ModelPackageError, match="it does not run"):
        import_network(source, tmp_path / "engines", name=None, version="1.0.0", trial=refuse)
    assert list((tmp_path / "engines").iterdir()) == []


def test_a_version_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    source = write_two_channels(tmp_path / "net.onnx")
    imported(source, tmp_path / "engines")
    with pytest.raises(
        ConfigurationError, match=r"there is a package net/1\.0\.0 already, and a version never changes"
    ):
        imported(source, tmp_path / "engines")
    imported(source, tmp_path / "engines", version="1.0.1")
    assert len(ModelRepository(tmp_path / "engines", tmp_path / "weights").packages) == 2


@pytest.mark.parametrize(
    ("name", "version", "reason"),
    [
        ("../net", "1.0.0", "'../net' is no name for a package"),
        ("Net", "1.0.0", "'Net' is no name for a package"),
        ("net", "1.0", "'1.0' is no version"),
        ("net", "../1.0.0", "is no version"),
        (None, "1.0.0", "1.onnx gives no name for a package. Give --name"),
    ],
)
def test_names_and_versions_that_are_none(tmp_path: Path, name: str | None, version: str, reason: str) -> None:
    source = write_two_channels(tmp_path / "1.onnx")
    with pytest.raises(ConfigurationError, match=reason):
        imported(source, tmp_path / "engines", name, version)
    assert not (tmp_path / "engines").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        imported(tmp_path / "net.onnx", tmp_path / "engines")
    (tmp_path / "net.onnx").write_bytes(b"rot")
    with pytest.raises(ModelPackageError, match=r"net\.onnx cannot become a model package: found it is no ONNX file"):
        imported(tmp_path / "net.onnx", tmp_path / "engines")
    assert not (tmp_path / "engines").exists()
