"""Engines are really built, by TensorRT-RTX, without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.backends.base import NetworkSpec
from appliance.backends.engine_builder import CAPABILITIES, BuiltEngine, build_engine
from appliance.backends.tensorrt_api import TensorRtApi, find_tensorrt
from appliance.errors import BackendUnavailable, InferenceTimeout, ModelPackageError
from appliance.modelrepo.repository import ModelRepository
from appliance.pipeline.model import network_of
from tests.support.studies import REPOSITORY
from tests.unit.backends.networks import SPEC, write_convolution

REPO = ModelRepository(REPOSITORY / "engines", REPOSITORY / ".cache" / "state" / "weights")


@pytest.fixture(scope="module")
def api() -> TensorRtApi:
    try:
        return find_tensorrt()
    except BackendUnavailable as error:
        pytest.skip(str(error))


def build(model: Path, api: TensorRtApi, spec: NetworkSpec = SPEC, time_limit_s: float = 300.0) -> BuiltEngine:
    return build_engine(
        model, spec, api, time_limit_s=time_limit_s, memory_limit_bytes=4 << 30, progress=lambda line: None
    )


@pytest.mark.parametrize(
    ("package", "stage"),
    [(package, stage) for package in REPO.packages for stage in package.manifest.stages],
    ids=lambda value: getattr(value, "name", None) or value.manifest.name,
)
def test_every_network_of_every_package(package, stage, api: TensorRtApi) -> None:  # type: ignore[no-untyped-def]
    """Its tensors are those of the manifest (the builder compares), and there is an engine for every newer GPU."""
    weights = next(weights for weights in package.manifest.weights if weights.file == stage.weights)
    if not package.path_of(weights).is_file():
        pytest.skip(f"no weights: appliance models fetch {package.manifest.name}")
    engine = build(package.path_of(weights), api, network_of(package.manifest, stage))
    assert package.path_of(weights).stat().st_size < len(engine.plan) < 64 << 20
    assert set(CAPABILITIES) == {*engine.capabilities, *engine.left_out}
    assert {"8.0", "8.6", "8.9", "12.0"} <= set(engine.capabilities)
    for reason in engine.left_out.values():
        assert "3D convolution is not supported" in reason


def test_a_free_axis_gets_the_size_of_the_manifest(tmp_path: Path, api: TensorRtApi) -> None:
    assert build(write_convolution(tmp_path / "net.onnx", batch="n"), api).plan


def test_an_operator_that_is_lacking_is_named_with_its_node(tmp_path: Path, api: TensorRtApi) -> None:
    model = write_convolution(tmp_path / "net.onnx", operator="Divine", domain="org.example")
    with pytest.raises(ModelPackageError, match=r"cannot read net\.onnx: found node last \(Divine\)"):
        build(model, api)


def test_a_damaged_file(tmp_path: Path, api: TensorRtApi) -> None:
    model = write_convolution(tmp_path / "net.onnx")
    model.write_bytes(model.read_bytes()[:100])
    with pytest.raises(ModelPackageError, match="cannot read"):
        build(model, api)


def test_other_tensors_than_the_manifest_says(tmp_path: Path, api: TensorRtApi) -> None:
    spec = NetworkSpec("test/net", "volume", (1, 1, 8, 8), "mask", "float32")
    with pytest.raises(ModelPackageError, match="does not have the tensors that the manifest names"):
        build(write_convolution(tmp_path / "net.onnx"), api, spec)


def test_the_time_limit(tmp_path: Path, api: TensorRtApi) -> None:
    with pytest.raises(InferenceTimeout, match="was not built in time"):
        build(write_convolution(tmp_path / "net.onnx"), api, time_limit_s=-10.0)
