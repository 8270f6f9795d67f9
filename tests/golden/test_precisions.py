"""Each package in each reduced precision: what it costs on the golden images, and an engine where that is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.backends.engine_builder import CAPABILITIES, build_engine
from appliance.backends.tensorrt_api import TensorRtApi, find_tensorrt
from appliance.errors import BackendUnavailable, VerificationFailed, WeightsUnavailable
from appliance.manifest.manifest import Precision
from appliance.modelrepo.package import ModelPackage, weights_sha256
from appliance.modelrepo.repository import ModelRepository
from appliance.pipeline.model import Model, network_of
from appliance.pipeline.networks import Network, folded, graph_cache, network_in, place_of
from appliance.pipeline.rehearsal import reference_of, rehearse, require_passed
from appliance.pipeline.verifier import golden_images
from tests.support.studies import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PACKAGES = ModelRepository(REPOSITORY / "engines", REPOSITORY / ".cache" / "state" / "weights").packages
HEAVY = {"ct-head-brain", "mr-brain-volumetry"}
"""Networks that ONNX Runtime takes minutes for in each reduced precision."""
LEFT_OUT = {
    "float16": "3D",
    "bfloat16": "sm75",  # Turing does not have the type
    "int8": "3D convolution is not supported",  # of the layers that stay in float32
}
"""Why a network may not run on Turing."""


@pytest.fixture(scope="module")
def api() -> TensorRtApi:
    try:
        return find_tensorrt()
    except BackendUnavailable as error:
        pytest.skip(str(error))


def silent(line: str) -> None:
    """Progress that nobody follows."""


def reduced(package: ModelPackage, reference: Model, precision: Precision, cache: Path) -> dict[str, Network]:
    """The network of each stage; int8 is calibrated on the golden images, there being no others on every machine."""
    graphs, files, made = graph_cache(cache), package.require_weights(), {}
    for stage in package.manifest.stages:
        own, sha256 = files[stage.weights], weights_sha256(package.manifest, stage)
        if precision in ("float16", "bfloat16"):
            derived = graphs.reduced(own, sha256, precision)  # type: ignore[arg-type]
        else:
            derived = graphs.quantized(
                own,
                sha256,
                place=place_of(package, stage),
                calibration="golden images",
                images=len(package.manifest.golden),
                tensors=(reference.tensor(image, stage) for _, image in golden_images(package)),
            )
        assert derived.path.stat().st_size < 0.75 * own.stat().st_size
        made[stage.name] = network_in(derived)
    return made


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize(
    "package",
    [
        pytest.param(
            package, id=package.manifest.name, marks=[pytest.mark.long] if package.manifest.name in HEAVY else []
        )
        for package in PACKAGES
    ],
)
def test_measured_then_built(package: ModelPackage, precision: Precision, tmp_path: Path, api: TensorRtApi) -> None:
    cache = tmp_path / "cache"
    try:
        with reference_of(package, threads=2, cache=cache) as reference:
            networks = reduced(package, reference, precision, cache)
            found = rehearse(reference, precision, None, threads=2, cache=cache, progress=silent)
    except WeightsUnavailable as error:
        pytest.skip(str(error))
    assert len(found.cases) == len(package.manifest.golden)
    if not found.passed:
        with pytest.raises(VerificationFailed, match=r"it is refused: found .*(Dice|size|differs|refuses)"):
            require_passed(found)
        return
    for stage in package.manifest.stages:
        spec = network_of(package.manifest, stage, precision)
        network = folded(cache, package.manifest, stage, networks[stage.name])
        engine = build_engine(network.path, spec, api, time_limit_s=900.0, memory_limit_bytes=4 << 30, progress=silent)
        least, typical = spec.min_shape or spec.input_shape, spec.typical_shape or spec.input_shape
        assert engine.tensors[stage.input_tensor] == [list(least), list(typical), list(spec.input_shape)]
        assert stage.output_tensor in engine.tensors
        assert network.path.stat().st_size < len(engine.plan) < 300 << 20
        assert {"8.0", "8.6", "8.9", "12.0"} <= set(engine.capabilities)
        assert set(CAPABILITIES) == {*engine.capabilities, *engine.left_out}
        assert all(LEFT_OUT[precision] in reason for reason in engine.left_out.values())
