"""Derived networks, kept in the state folder: ``cache/graphs/<key>/network.onnx`` with ``graph.json``.

Each is found by everything that it depends on: the SHA-256 of the network that it was made from, what was done, and
the versions of the libraries that did it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from appliance.graphs.folding import Folding, fold
from appliance.graphs.precision import Narrow, reduce_precision
from appliance.graphs.quantization import quantize
from appliance.graphs.tensors import read_network
from appliance.spool.derived import Derived, DerivedFiles, Made

_RECIPE = 1
"""Raise it when a rewriting changes: networks that the old one made are then not found any more."""

_MAX_BYTES = 4 << 30


class GraphCache:
    """The cache below one folder.

    All methods raise ``ModelPackageError`` when the network cannot be rewritten so, and ``OSError`` when the disk fails
    or is full.
    """

    def __init__(self, folder: Path) -> None:
        self._files = DerivedFiles(
            folder, what="network", file="network.onnx", info_file="graph.json", max_bytes=_MAX_BYTES
        )

    def reduced(self, network: Path, sha256: str, precision: Narrow, *, emulate: bool = False) -> Derived:
        """The network in float16 or bfloat16; see ``reduce_precision``.

        Parameters
        ----------
        sha256
            Of ``network``.
        """
        done = {"precision": precision, "emulated": emulate}
        return self._get(network, sha256, done, lambda model: reduce_precision(model, precision, emulate=emulate))

    def quantized(
        self,
        network: Path,
        sha256: str,
        *,
        place: str,
        calibration: str,
        images: int,
        tensors: Iterable[NDArray[np.float32]],
    ) -> Derived:
        """The network in int8, calibrated on ``tensors``; see ``quantize``.

        Parameters
        ----------
        place
            Which network of which package it is: one file can be two of them, and be given other tensors in each.
        calibration
            SHA-256 over the images that the tensors come from.
        images
            How many they are.
        """
        done = {"precision": "int8", "place": place, "calibration": calibration, "images": images}
        return self._get(network, sha256, done, lambda model: quantize(model, tensors))

    def folded(self, network: Path, sha256: str, input_tensor: str, output_tensor: str, folding: Folding) -> Derived:
        """The network with what is pointwise around it in it; see ``fold``."""
        done = {"folding": asdict(folding), "tensors": [input_tensor, output_tensor]}
        return self._get(network, sha256, done, lambda model: fold(model, input_tensor, output_tensor, folding))

    def made_of(self, sha256: str) -> set[str]:
        """SHA-256 of every network that was made of the network with this SHA-256, or of one of these; for display."""
        infos = self._files.infos()
        found, before = {sha256}, 0
        while len(found) > before:
            before = len(found)
            found |= {info["sha256"] for info in infos if info.get("made_of") in found}
        return found - {sha256}

    def remove(self, network: Derived) -> None:
        """Forget a network that turned out to be of no use."""
        self._files.remove(network)

    def calibrated(self, sha256: str, place: str) -> Derived | None:
        """The int8 network that was last made of, or used for, the network with this SHA-256; ``None`` without one."""
        parts = _parts(sha256, {"precision": "int8", "place": place})
        return self._files.newest(lambda info: parts.items() <= info.items())

    def _get(
        self, network: Path, sha256: str, done: dict[str, Any], rewrite: Callable[[onnx.ModelProto], onnx.ModelProto]
    ) -> Derived:
        parts = _parts(sha256, done)

        def make() -> Made:
            return Made(rewrite(read_network(network)).SerializeToString(deterministic=True), parts)

        return self._files.get(parts, make)


def _parts(sha256: str, done: dict[str, Any]) -> dict[str, Any]:
    libraries = {"onnx": version("onnx"), "onnxruntime": version("onnxruntime")}
    return {"recipe": _RECIPE, "made_of": sha256, **libraries, **done}
