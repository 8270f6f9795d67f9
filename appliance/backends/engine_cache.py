"""Built engines, kept in the state folder: found again by everything that they depend on, and checked before use.

Each entry is a folder ``<key>/`` with ``engine.plan``, ``engine.json`` (what it was made from) and ``build.log``. It
gets its name when it is whole, so a build that was killed leaves nothing that could be taken for an engine.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.backends.base import NetworkSpec
from appliance.backends.engine_builder import CAPABILITIES, BuiltEngine
from appliance.backends.tensorrt_api import TensorRtApi
from appliance.spool.durable import ensure_folder, fsync_folder, write_durably

_log = logging.getLogger(__name__)

_RECIPE = 1
"""Raise it when the builder's settings change: engines of the old ones are then not found any more."""


@dataclass(frozen=True, slots=True)
class CachedEngine:
    """An engine on disk whose bytes are those that were built.

    Attributes
    ----------
    info
        The content of ``engine.json``.
    built
        Whether it was built now, rather than found.
    """

    path: Path
    info: dict[str, Any]
    built: bool


class EngineCache:
    """The cache below one folder.

    Parameters
    ----------
    max_bytes
        Entries that have not been used for longest are removed when all together take more.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        ensure_folder(folder)

    def get(
        self, onnx_sha256: str, spec: NetworkSpec, api: TensorRtApi, build: Callable[[], BuiltEngine]
    ) -> CachedEngine:
        """Return the engine for a network, built by ``build`` when it is not here or damaged.

        Another process that wants the same engine waits until it is built.

        Raises
        ------
        OSError
            The disk failed or is full; nothing half written is left.
        """
        key = self._key(onnx_sha256, spec, api)
        with (self.folder / f".{key}.lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self._find(key)
            if found is not None:
                return found
            entry = self._store(key, onnx_sha256, spec, api, build())
        self._evict(keep=key)
        return entry

    def _key(self, onnx_sha256: str, spec: NetworkSpec, api: TensorRtApi) -> str:
        """Everything that an engine depends on; the GPU's name is not among it, two of a name can differ."""
        parts = {
            "recipe": _RECIPE,
            "onnx_sha256": onnx_sha256,
            "network": asdict(spec),
            "distribution": api.distribution,
            "version": api.version,
            "capabilities": CAPABILITIES if api.ahead_of_time else "this device",
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def _find(self, key: str) -> CachedEngine | None:
        folder = self.folder / key
        plan = folder / "engine.plan"
        if not folder.is_dir():
            return None
        try:
            info = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
            if hashlib.sha256(plan.read_bytes()).hexdigest() != info["sha256"]:
                raise ValueError("its SHA-256 is another")
        except (OSError, ValueError, KeyError) as error:
            _log.warning("the engine %s in the cache is damaged (%s) and is built anew", key, error)
            shutil.rmtree(folder)
            return None
        os.utime(folder)  # used now
        return CachedEngine(plan, info, built=False)

    def _store(
        self, key: str, onnx_sha256: str, spec: NetworkSpec, api: TensorRtApi, engine: BuiltEngine
    ) -> CachedEngine:
        info = {
            "network": spec.name,
            "onnx_sha256": onnx_sha256,
            "sha256": hashlib.sha256(engine.plan).hexdigest(),
            "bytes": len(engine.plan),
            "layers": engine.layers,
            "distribution": api.distribution,
            "version": api.version,
            "capabilities": list(engine.capabilities),
            "left_out": engine.left_out,
            "build_seconds": round(engine.seconds, 2),
        }
        scratch = self.folder / f".{key}.building"
        if scratch.exists():
            shutil.rmtree(scratch)  # of a build that was killed
        write_durably(scratch / "engine.plan", engine.plan)
        write_durably(scratch / "build.log", "".join(f"{line}\n" for line in engine.log).encode())
        write_durably(scratch / "engine.json", (json.dumps(info, indent=2) + "\n").encode())
        folder = self.folder / key
        scratch.rename(folder)
        fsync_folder(self.folder)
        return CachedEngine(folder / "engine.plan", info, built=True)

    def _evict(self, keep: str) -> None:
        entries = sorted(
            (path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")),
            key=lambda path: path.stat().st_mtime,
        )
        sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in entries}
        total = sum(sizes.values())
        for path in entries:
            if total <= self._max_bytes:
                return
            if path.name != keep:
                _log.info("the engine %s has not been used for longest and is removed from the cache", path.name)
                shutil.rmtree(path)
                total -= sizes[path]


def engines_in(folder: Path) -> list[dict[str, Any]]:
    """What each engine of a cache was made from, by network; an entry that cannot be read is left out."""
    found = []
    for path in folder.glob("*/engine.json"):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda info: str(info.get("network")))
