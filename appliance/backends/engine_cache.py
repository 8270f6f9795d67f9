"""Built engines, kept in the state folder: found again by everything that they depend on, and checked before use.

Each entry is a folder ``<key>/`` with ``engine.plan``, ``engine.json`` (what it was made from) and ``build.log``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance.backends.base import NetworkSpec
from appliance.backends.engine_builder import CAPABILITIES, BuiltEngine
from appliance.backends.tensorrt_api import TensorRtApi
from appliance.spool.derived import Derived, DerivedFiles, Made

_RECIPE = 2
"""Raise it when the builder's settings change: engines of the old ones are then not found any more."""

MAX_BYTES = 8 << 30


class EngineCache:
    """The cache below one folder; ``max_bytes`` as ``DerivedFiles`` has it."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._files = DerivedFiles(
            folder, what="engine", file="engine.plan", info_file="engine.json", max_bytes=max_bytes
        )

    def get(self, onnx_sha256: str, spec: NetworkSpec, api: TensorRtApi, build: Callable[[], BuiltEngine]) -> Derived:
        """Return the engine for a network, built by ``build`` when it is not here or damaged.

        Parameters
        ----------
        onnx_sha256
            Of the very file that is built: of the derived graph, where one is.

        Raises
        ------
        OSError
            The disk failed or is full; nothing half written is left.
        """
        return self._files.get(_parts(onnx_sha256, spec, api), lambda: _made(onnx_sha256, spec, api, build()))

    def find(self, onnx_sha256: str, spec: NetworkSpec, api: TensorRtApi) -> Derived | None:
        """Return the engine for a network if it is here and whole; ``get`` says what it depends on."""
        return self._files.find(_parts(onnx_sha256, spec, api))


def _parts(onnx_sha256: str, spec: NetworkSpec, api: TensorRtApi) -> dict[str, Any]:
    """Everything that an engine depends on; the GPU's name is not among it, two of a name can differ."""
    return {
        "recipe": _RECIPE,
        "onnx_sha256": onnx_sha256,
        "network": asdict(spec),
        "distribution": api.distribution,
        "version": api.version,
        "capabilities": CAPABILITIES if api.ahead_of_time else api.device,
    }


def _made(onnx_sha256: str, spec: NetworkSpec, api: TensorRtApi, engine: BuiltEngine) -> Made:
    info = {
        "network": spec.name,
        "precision": spec.precision,
        "onnx_sha256": onnx_sha256,
        "layers": engine.layers,
        "tensors": engine.tensors,
        "distribution": api.distribution,
        "version": api.version,
        "capabilities": list(engine.capabilities),
        "left_out": engine.left_out,
        "build_seconds": round(engine.seconds, 2),
    }
    return Made(engine.plan, info, {"build.log": "".join(f"{line}\n" for line in engine.log).encode()})


def engines_in(folder: Path) -> list[dict[str, Any]]:
    """What each engine of a cache was made from, by network; an entry that cannot be read is left out."""
    found = []
    for path in folder.glob("*/engine.json"):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda info: str(info.get("network")))
