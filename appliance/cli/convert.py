"""``appliance models convert``: TensorRT engines of packages, built beside whatever serves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from appliance.backends.engine_builder import build_engine
from appliance.backends.engine_cache import EngineCache
from appliance.backends.tensorrt_api import TensorRtApi, find_tensorrt
from appliance.config.reader import read_settings
from appliance.errors import ApplianceError
from appliance.manifest.manifest import StageSpec
from appliance.modelrepo.package import ModelPackage
from appliance.pipeline.model import network_of
from appliance.services.models import repository
from appliance.services.role import prepare_state
from appliance.spool.derived import Derived

_CACHE_BYTES = 8 << 30


def convert_models(
    config: Path | None,
    state_dir: Path | None,
    names: Sequence[str],
    *,
    everything: bool,
    time_limit_s: float,
    memory_limit_bytes: int,
) -> int:
    """Build, or find in the cache, the engine of every network of the packages; print a table.

    Returns 0, or the exit code of the first package that could not be converted; the others are converted all the same.
    """
    settings = read_settings(config)
    layout = prepare_state(settings, state_dir)
    packages = repository(settings, layout)
    api = find_tensorrt()
    cache = EngineCache(layout.engines, max_bytes=_CACHE_BYTES)
    rows, code = [], 0
    for package in packages.select(names, everything=everything):
        try:
            files = package.require_weights()
            for stage in package.manifest.stages:
                _say(f"{package.manifest.key}: {stage.name}, by {api.distribution} {api.version}")
                entry = _engine(package, stage, files[stage.weights], api, cache, time_limit_s, memory_limit_bytes)
                rows.append(_row(entry))
        except ApplianceError as error:
            _say(f"appliance: {error}")
            code = code or error.exit_code
    if rows:
        print(f"{'network':32}{'engine':>10}{'built in':>10}  compute capabilities")
        print("\n".join(rows))
    return code


def _engine(
    package: ModelPackage,
    stage: StageSpec,
    model: Path,
    api: TensorRtApi,
    cache: EngineCache,
    time_limit_s: float,
    memory_limit_bytes: int,
) -> Derived:
    spec = network_of(package.manifest, stage)
    (sha256,) = (weights.sha256 for weights in package.manifest.weights if weights.file == stage.weights)
    return cache.get(
        sha256,
        spec,
        api,
        lambda: build_engine(
            model, spec, api, time_limit_s=time_limit_s, memory_limit_bytes=memory_limit_bytes, progress=_say
        ),
    )


def _row(entry: Derived) -> str:
    info = entry.info
    built = f"{info['build_seconds']:.1f} s" if entry.built else "cached"
    capabilities = ", ".join(info["capabilities"]) or "this GPU"
    left_out = "".join(f"; not {capability}: {reason[:120]}" for capability, reason in info["left_out"].items())
    return f"{info['network']:32}{info['bytes'] / 1e6:7.1f} MB{built:>10}  {capabilities}{left_out}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
