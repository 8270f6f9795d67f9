"""``appliance models convert``: networks in another precision, measured, and TensorRT engines; what serves goes on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.backends.base import NetworkSpec
from appliance.backends.engine_builder import build_engine
from appliance.backends.engine_cache import EngineCache
from appliance.backends.tensorrt_api import TensorRtApi, find_tensorrt
from appliance.cli.reduction import package_networks, reduced_networks
from appliance.config.layout import StateLayout
from appliance.config.reader import read_settings
from appliance.errors import ApplianceError, BackendUnavailable, ConfigurationError
from appliance.manifest.manifest import Precision
from appliance.pipeline.model import network_of
from appliance.pipeline.networks import Network
from appliance.services.inference import thread_count
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
    precision: Precision | None = None,
    calibrate: Path | None = None,
    time_limit_s: float,
    memory_limit_bytes: int,
) -> int:
    """Build, or find in the cache, the engine of every network of the packages; print a table.

    A precision below float32 is measured on the CPU first, and refused where it loses more than the package allows.
    Without TensorRT the networks are made and measured all the same when a CPU backend can run them.

    Returns 0, or the exit code of the first package that could not be converted; the others are converted all the same.
    """
    if (precision == "int8") != (calibrate is not None):
        raise ConfigurationError(
            "int8 needs images of this site, and nothing else does", mend="Give: --precision int8 --calibrate FOLDER"
        )
    settings = read_settings(config)
    layout = prepare_state(settings, state_dir)
    packages = repository(settings, layout).select(names, everything=everything)
    builder = _builder(layout, precision, time_limit_s, memory_limit_bytes)
    rows, code = [], 0
    for package in packages:
        wanted = precision or package.manifest.runtime.precision
        try:
            networks = (
                package_networks(package, layout.cache)
                if wanted == "float32"
                else reduced_networks(
                    package,
                    wanted,
                    calibrate,
                    threads=thread_count(settings),
                    cache=layout.cache,
                    max_bytes=settings.dicom.max_instance_bytes,
                    say=_say,
                )
            )
            for stage in package.manifest.stages if builder else ():
                assert builder is not None
                _say(f"{package.manifest.key}: {stage.name} in {wanted}, by {builder.name}")
                rows.append(_row(builder.engine(networks[stage.name], network_of(package.manifest, stage, wanted))))
        except ApplianceError as error:
            _say(f"appliance: {error}")
            code = code or error.exit_code
    if rows:
        print(f"{'network':32}{'precision':>10}{'engine':>10}{'built in':>10}  compute capabilities")
        print("\n".join(rows))
    return code


@dataclass(frozen=True, slots=True)
class _Builder:
    """Builds engines within limits, and finds those that it built before."""

    api: TensorRtApi
    engines: EngineCache
    timing_cache: Path | None
    time_limit_s: float
    memory_limit_bytes: int

    @property
    def name(self) -> str:
        return f"{self.api.distribution} {self.api.version}"

    def engine(self, network: Network, spec: NetworkSpec) -> Derived:
        return self.engines.get(
            network.sha256,
            spec,
            self.api,
            lambda: build_engine(
                network.path,
                spec,
                self.api,
                time_limit_s=self.time_limit_s,
                memory_limit_bytes=self.memory_limit_bytes,
                progress=_say,
                timing_cache=self.timing_cache,
            ),
        )


def _builder(
    layout: StateLayout, precision: Precision | None, time_limit_s: float, memory_limit_bytes: int
) -> _Builder | None:
    """The builder; ``None`` without TensorRT when int8 is asked for, which CPU backends run too."""
    try:
        api = find_tensorrt()
    except BackendUnavailable as error:
        if precision != "int8":
            raise
        _say(f"no engine is built, the CPU backends can run the network: {error}")
        return None
    return _Builder(
        api,
        EngineCache(layout.engines, max_bytes=_CACHE_BYTES),
        None if api.ahead_of_time else layout.cache / "timing.cache",
        time_limit_s,
        memory_limit_bytes,
    )


def _row(entry: Derived) -> str:
    info = entry.info
    built = f"{info['build_seconds']:.1f} s" if entry.built else "cached"
    capabilities = ", ".join(info["capabilities"]) or "this GPU"
    left_out = "".join(f"; not {capability}: {reason[:120]}" for capability, reason in info["left_out"].items())
    size = f"{info['bytes'] / 1e6:7.1f} MB"
    return f"{info['network']:32}{info['precision']:>10}{size}{built:>10}  {capabilities}{left_out}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
