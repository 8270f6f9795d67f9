"""Small model packages that really run: each outlines what is bright in a radiograph, each version at its own level."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from onnx import helper
from pydicom.uid import ComputedRadiographyImageStorage

from tests.support.dicom_factory import Subject, radiograph, write_datasets
from tests.support.networks import write_network

_SIDE = 96
_GRID = 64
_STEEPNESS = 60.0


def cone(size: float = 1.0) -> NDArray[np.uint16]:
    """An image that is brightest in its middle and falls off evenly: ``[row, column]``, 0 to 1000.

    ``size`` is the radius at which it has fallen to 0, as a fraction of half the side.
    """
    axis = np.linspace(-1.0, 1.0, _SIDE)
    distance = np.hypot(axis[:, np.newaxis], axis)
    return np.asarray(np.clip(1.0 - distance / size, 0.0, 1.0) * 1000.0).astype(np.uint16)


def cone_study(folder: Path, name: str, size: float = 1.0) -> list[Path]:
    """A CR study of one such image; each name is another patient's."""
    return write_datasets([radiograph(cone(size), "CR", subject=Subject(seed=f"cone {name}"))], folder)


def area_of(level: float, size: float = 1.0) -> float:
    """How many pixels of the image are brighter than ``level``, a fraction of the brightest."""
    return float(np.count_nonzero(cone(size) > level * 1000))


def write_bright_package(
    engines: Path,
    version: str,
    level: float,
    *,
    name: str = "bright",
    scope: str = "instance",
    activation: str = "automatic",
    expected: float | None = None,
    golden: bool = True,
    backends: Sequence[str] = ("onnxruntime",),
) -> Path:
    """Write a package that outlines what is brighter than ``level``; return its folder.

    Parameters
    ----------
    expected
        Pixels that the golden case wants; the right number when it is left out.
    """
    folder = engines / name / version
    (folder / "golden").mkdir(parents=True)
    nodes = [
        helper.make_node("Sub", ["image", "level"], ["above"]),
        helper.make_node("Mul", ["above", "steepness"], ["steep"]),
        helper.make_node("Sigmoid", ["steep"], ["probability"]),
    ]
    constants = {"level": np.float32([level]), "steepness": np.float32([_STEEPNESS])}
    network = write_network(folder / "model.onnx", nodes, shape=(1, 1, _GRID, _GRID), constants=constants)
    (image,) = cone_study(folder / "golden", "golden")
    image = image.rename(folder / "golden" / "cone.dcm")
    content = _manifest(name, version, scope, activation)
    content["runtime"]["backends"] = list(backends)
    content["weights"] = [{"file": "model.onnx", "sha256": _sha256(network), "source": {"kind": "package"}}]
    if golden:
        content["golden"] = [
            {
                "name": "cone",
                "image": {"sha256": _sha256(image), "format": "dicom", "modality": "CR",
                          "source": {"kind": "package", "file": "cone.dcm"}},
                "expect": [{"structure": "Bright", "quantity": "area_pixels", "tolerance": 0.15,
                            "value": area_of(level) if expected is None else expected}],
            }
        ]  # fmt: skip
    (folder / "manifest.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _manifest(name: str, version: str, scope: str, activation: str) -> dict[str, Any]:
    code = {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"}
    return {
        "schema_version": 1,
        "name": name,
        "version": version,
        "title": "Bright parts",
        "algorithm": {
            "name": name,
            "version": version,
            "manufacturer": "tests",
            "family": {"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"},
        },
        "intended_use": "tests",
        "licence": "MIT",
        "activation": activation,
        "scope": scope,
        "match": {"modality": ["CR"], "sop_class_uid": [str(ComputedRadiographyImageStorage)]},
        "input": {"kind": "projection"},
        "stages": [
            {
                "name": "outline",
                "weights": "model.onnx",
                "input_tensor": "image",
                "input_shape": [1, 1, _GRID, _GRID],
                "steps": [
                    {"step": "scale_quantiles", "low": 0.0, "high": 1.0},
                    {"step": "resize", "shape": [_GRID, _GRID], "interpolation": "area"},
                ],
                "output_tensor": "probability",
            }
        ],
        "readout": {
            "kind": "threshold",
            "restore": "linear",
            "structures": [
                {
                    "label": "Bright",
                    "channel": 0,
                    "category": code,
                    "structure": {"value": "39607008", "scheme": "SCT", "meaning": "Lung"},
                    "color": [255, 0, 0],
                    "measurements": [
                        {
                            "quantity": "area_pixels",
                            "concept": {"value": "42798000", "scheme": "SCT", "meaning": "Area"},
                            "unit": {"value": "{pixels}", "scheme": "UCUM", "meaning": "pixels"},
                            "digits": 0,
                        }
                    ],
                }
            ],
        },
        "runtime": {"backends": ["onnxruntime"], "time_limit_s": 30},
    }
