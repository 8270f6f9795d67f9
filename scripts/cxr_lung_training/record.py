"""`training.json`: what the delivered weights were made from, and what they score."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from cxr_lung_training.dataset import ChestImage
from cxr_lung_training.evaluation import Score, summarise
from cxr_lung_training.training import Recipe

_PACKAGES = ("torch", "numpy", "scipy", "pillow", "onnx", "onnxruntime")


def write_record(
    path: Path, *, model: Path, recipe: Recipe, images: Sequence[ChestImage], folds: Sequence[Sequence[Score]]
) -> None:
    """Write the record of `model`, which was trained on `images`, beside the scores of each fold."""
    pooled = sorted((score for fold in folds for score in fold), key=lambda score: score.image_id)
    projections = sorted({score.projection for score in pooled})
    record = {
        "command": shlex.join(["scripts/train-cxr-lung", *_without_folders(sys.argv[1:])]),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "recipe": asdict(recipe),
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "training_patients": sorted({image.patient_id for image in images}),
        "training_images": sorted(image.image_id for image in images),
        "cross_validation": {
            "meaning": "each image is scored by weights of the same recipe that never saw its patient",
            "all": summarise(pooled),
            "by_projection": {
                name: summarise([score for score in pooled if score.projection == name]) for name in projections
            },
            "folds": [
                {"held_out_patients": sorted({score.patient_id for score in fold}), "figures": summarise(fold)}
                for fold in folds
            ],
            "images": [_rounded(score) for score in pooled],
        },
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_scores(path: Path) -> list[Score]:
    """Read the scores of one fold."""
    return [Score(**one) for one in json.loads(path.read_text(encoding="utf-8"))]


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write the scores of one fold."""
    path.write_text(json.dumps([asdict(score) for score in scores], indent=1) + "\n", encoding="utf-8")


def _rounded(score: Score) -> dict[str, object]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(score).items()}


def _without_folders(arguments: Sequence[str]) -> list[str]:
    """Replace the folders of the machine at hand, which mean nothing to the reader of the record."""
    kept = list(arguments)
    for option, name in (("--data", "DATA"), ("--work", "WORK")):
        if option in kept:
            kept[kept.index(option) + 1] = name
    return kept
