"""What the manifest lets be folded is in the networks that serve, and the results are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.graphs.folding import Folding
from appliance.manifest.manifest import BackendName, Manifest
from appliance.modelrepo.package import ModelPackage
from appliance.pipeline.model import Model
from appliance.pipeline.networks import folding_of, networks_of, own_networks, unfolded
from appliance.pipeline.verification import Verification
from appliance.pipeline.verifier import Verifier
from tests.unit.pipeline.test_model import ellipsoid
from tests.unit.pipeline.test_verification import package_with

AFFINE = {"step": "affine", "scale": 0.5, "offset": 0.2}


def folding_package(folder: Path, *, kind: str = "threshold", restore: str = "nearest") -> ModelPackage:
    """The package of two stages, each with scalings at the end of its steps."""
    package = package_with(folder)
    content: dict[str, Any] = package.manifest.model_dump(mode="json")
    for stage in content["stages"]:
        stage["steps"] += [AFFINE, AFFINE | {"scale": 2.0, "offset": -0.4}]
    content["readout"] |= {"kind": kind, "restore": restore}
    content["runtime"]["fold"] = True
    return ModelPackage(Manifest.model_validate(content), folder, folder)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_folded_and_not_folded_give_the_same(backend: BackendName, tmp_path: Path) -> None:
    """The same masks and numbers; the outputs are truth values, a quarter of the bytes."""
    package = folding_package(tmp_path / "package")
    results = []
    for networks in (None, own_networks()):
        model = Model(package, threads=1, cache=tmp_path / "cache", backends=[backend], networks=networks)
        image = ellipsoid(model, tmp_path / f"images {networks is None}")
        model.open()
        try:
            results.append(model.judge_with_output(image, {}))
        finally:
            model.close()
    (folded, result), (whole, expected) = results
    assert folded.dtype == np.bool_ and whole.dtype == np.float32
    assert np.array_equal(folded, whole > 0.5)
    assert np.array_equal(result.segments[0].mask, expected.segments[0].mask)
    assert result.findings[0].measurements == expected.findings[0].measurements


def test_what_is_folded(tmp_path: Path) -> None:
    scalings = ((0.5, 0.2), (2.0, -0.4))
    manifest = folding_package(tmp_path / "a").manifest
    assert folding_of(manifest, manifest.stages[0]) == Folding(scalings, "above", 0.5)
    assert folding_of(manifest, manifest.stages[1]) == Folding(scalings, "above", 0.5)
    assert [step.step for step in unfolded(manifest.stages[0]).steps] == ["orient", "resize", "scale_quantiles"]
    linear = folding_package(tmp_path / "b", restore="linear").manifest
    assert folding_of(linear, linear.stages[1]) == Folding(scalings, None)
    plain = manifest.model_copy(update={"runtime": manifest.runtime.model_copy(update={"fold": False})})
    assert not folding_of(plain, plain.stages[0]).changes


def test_labels_are_folded_into_one_byte(tmp_path: Path) -> None:
    manifest = folding_package(tmp_path / "package").manifest
    structure = manifest.readout.structures[0].model_copy(update={"channel": 1})
    readout = manifest.readout.model_copy(update={"kind": "labels", "structures": [structure]})
    labels = manifest.model_copy(update={"readout": readout})
    assert folding_of(labels, labels.stages[1]).output == "winner"
    assert folding_of(labels, labels.stages[0]).output == "above"  # its box


def test_the_reference_is_not_folded(tmp_path: Path) -> None:
    """So the folding is verified too, on every backend, ONNX Runtime in float32 among them."""
    package = folding_package(tmp_path / "package")
    lines: list[str] = []
    seen: list[Verification] = []
    for backend in ("onnxruntime", "openvino"):
        verifier = Verifier(
            tmp_path / "verified", threads=1, cache=tmp_path / "cache", progress=lines.append, observe=seen.append
        )
        model = Model(package, threads=1, cache=tmp_path / "cache", backends=[backend])  # type: ignore[list-item]
        model.open(verifier.require)
        model.close()
    assert len(lines) == 4
    assert [one.least_dice for one in seen] == [1.0, 1.0]


def test_the_networks_of_a_package_are_known(tmp_path: Path) -> None:
    """Those that were derived from derived ones as well."""
    package = folding_package(tmp_path / "package")
    own = {weights.sha256 for weights in package.manifest.weights}
    assert networks_of(tmp_path / "cache", package) == own
    model = Model(package, threads=1, cache=tmp_path / "cache", backends=["onnxruntime"])
    model.open()
    model.close()
    assert networks_of(tmp_path / "cache", package) > own
