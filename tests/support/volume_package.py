"""A model package for CT of the head whose network takes no time: its images are prepared as a real one wants them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import yaml
from onnx import helper

from tests.support.networks import write_network

_GRID = 128
_RADIUS_MM = 60.0


def write_volume_package(engines: Path, real: Path, *, name: str = "dense", steps: int | None = None) -> Path:
    """Write a package that outlines what is denser than the mean of the image; return its folder.

    Parameters
    ----------
    real
        Folder of the package whose match, input and first steps it has (that of ct-head-brain).
    steps
        How many of the steps it has, all but the crop unless told.
    """
    folder = engines / name / "1.0.0"
    folder.mkdir(parents=True)
    content: dict[str, Any] = yaml.safe_load((real / "manifest.yaml").read_text(encoding="utf-8"))
    nodes = [
        helper.make_node("Sub", ["image", "level"], ["above"]),
        helper.make_node("Mul", ["above", "steepness"], ["steep"]),
        helper.make_node("Sigmoid", ["steep"], ["probability"]),
    ]
    constants = {"level": np.float32([0.5]), "steepness": np.float32([60.0])}
    network = write_network(folder / "model.onnx", nodes, shape=(1, 1, _GRID, _GRID, _GRID), constants=constants)
    ball = _write_ball(folder / "golden")
    stage = content["stages"][0]
    measured = content["readout"]["structures"][0]
    for measurement in measured["measurements"]:
        measurement["plausible"] = None
    kept = [step for step in stage["steps"] if step["step"] != "crop_to_foreground"][:steps]
    content |= {
        "name": name,
        "version": "1.0.0",
        "activation": "automatic",
        "weights": [
            {"file": "model.onnx", "sha256": _sha256(network), "source": {"kind": "package"}},
        ],
        "stages": [
            {
                "name": "outline", "weights": "model.onnx", "input_tensor": "image",
                "input_shape": [1, 1, _GRID, _GRID, _GRID], "output_tensor": "probability",
                "steps": [*kept, {"step": "resize", "shape": [_GRID] * 3, "interpolation": "linear"}],
            },
        ],
        "readout": {"kind": "threshold", "threshold": 0.5, "restore": "nearest",
                    "structures": [measured | {"channel": 0, "fill_holes": False}]},
        "runtime": {"backends": ["onnxruntime"], "time_limit_s": 30},
    }  # fmt: skip
    volume_ml = 4 / 3 * np.pi * _RADIUS_MM**3 / 1000
    content["golden"] = [
        {
            "name": "ball",
            "image": {"sha256": _sha256(ball), "format": "nifti", "modality": "CT",
                      "source": {"kind": "package", "file": ball.name}},
            "expect": [{"structure": measured["label"], "quantity": "volume_ml", "tolerance": 0.15,
                        "value": float(volume_ml)}],
        },
    ]  # fmt: skip
    del content["parity"]
    (folder / "manifest.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def _write_ball(folder: Path) -> Path:
    """A ball of water in air, 80 slices of 2 mm."""
    folder.mkdir()
    axis = np.arange(80) * 2.0 - 79.0
    inside = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < _RADIUS_MM**2
    path = folder / "ball.nii"
    nibabel.save(nibabel.Nifti1Image(np.where(inside, 0, -1000).astype(np.int16), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
