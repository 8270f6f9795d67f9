"""Engines are really built, by TensorRT-RTX, without a GPU."""

from __future__ import annotations

from dataclasses import replace
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
    spec = network_of(package.manifest, stage)
    least, typical = spec.min_shape or spec.input_shape, spec.typical_shape or spec.input_shape
    assert engine.tensors[stage.input_tensor] == [list(least), list(typical), list(spec.input_shape)]
    assert stage.output_tensor in engine.tensors
    assert set(CAPABILITIES) == {*engine.capabilities, *engine.left_out}
    assert {"8.0", "8.6", "8.9", "12.0"} <= set(engine.capabilities)
    for reason in engine.left_out.values():
        assert "3D convolution is not supported" in reason


def test_a_free_axis_gets_the_size_of_the_manifest(tmp_path: Path, api: TensorRtApi) -> None:
    engine = build(write_convolution(tmp_path / "net.onnx", batch="n"), api)
    assert engine.tensors == {"image": [[1, 1, 8, 8]] * 3, "mask": [None, 1, 8, 8]}


def test_free_axes_get_the_profile_of_the_manifest(tmp_path: Path, api: TensorRtApi) -> None:
    spec = replace(SPEC, input_shape=(4, 1, 8, 8), min_shape=(1, 1, 8, 8), typical_shape=(2, 1, 8, 8))
    engine = build(write_convolution(tmp_path / "net.onnx", batch="n"), api, spec)
    assert engine.tensors["image"] == [[1, 1, 8, 8], [2, 1, 8, 8], [4, 1, 8, 8]]


def test_a_profile_of_a_network_without_free_axes(tmp_path: Path, api: TensorRtApi) -> None:
    spec = replace(SPEC, input_shape=(4, 1, 8, 8), min_shape=(1, 1, 8, 8), typical_shape=(2, 1, 8, 8))
    with pytest.raises(ModelPackageError, match="another shape than the manifest says"):
        build(write_convolution(tmp_path / "net.onnx", batch=4), api, spec)


def test_times_of_kernels_are_kept(tmp_path: Path, api: TensorRtApi) -> None:
    """Ahead of time nothing is timed, but the file comes and goes the same way; a damaged one is no obstacle."""
    model = write_convolution(tmp_path / "net.onnx")
    path = tmp_path / "cache" / "timing.cache"
    for _ in range(2):
        engine = build_engine(
            model, SPEC, api, time_limit_s=300, memory_limit_bytes=4 << 30, progress=lambda line: None,
            timing_cache=path,
        )  # fmt: skip
        assert engine.plan and path.stat().st_size > 0
        path.write_bytes(b"damaged")


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
