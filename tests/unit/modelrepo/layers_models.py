"""Maker of a small layers model, as TensorFlow.js writes it: every kind of layer that brainchop has, and others."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np


def conv(name: str, filters: int, *, size: int = 3, dilation: int = 1, bias: bool = True) -> dict[str, Any]:
    config = {"filters": filters, "kernel_size": [size] * 3, "dilation_rate": [dilation] * 3, "strides": [1, 1, 1],
              "padding": "same", "data_format": "channels_last", "activation": "linear", "use_bias": bias}  # fmt: skip
    return {"class_name": "Conv3D", "name": name, "config": config}


def activation(name: str, function: str) -> dict[str, Any]:
    return {"class_name": "Activation", "name": name, "config": {"activation": function}}


def batch_norm(name: str) -> dict[str, Any]:
    return {"class_name": "BatchNormalization", "name": name, "config": {"axis": [4], "epsilon": 0.001}}


INPUT = {"class_name": "InputLayer", "name": "input", "config": {"batch_input_shape": [None, 8, 8, 8, 1]}}
LAYERS = [
    INPUT,
    conv("first", 3, dilation=2, bias=False),
    batch_norm("folded"),
    activation("elu", "elu"),
    batch_norm("kept"),
    conv("second_gn", 2, bias=False),
    activation("gelu", "gelu"),
    conv("third", 2),
    activation("relu", "relu"),
    conv("output", 4, size=1),
]
_generator = np.random.default_rng(7)
NORM = {"gamma": (3,), "beta": (3,), "moving_mean": (3,), "moving_variance": (3,)}
SHAPES = {
    "first/kernel": (3, 3, 3, 1, 3),
    **{f"folded/{name}": shape for name, shape in NORM.items()},
    **{f"kept/{name}": shape for name, shape in NORM.items()},
    "second_gn/kernel": (3, 3, 3, 3, 2),
    "third/kernel": (3, 3, 3, 2, 2),
    "third/bias": (2,),
    "output/kernel": (1, 1, 1, 2, 4),
    "output/bias": (4,),
}
WEIGHTS = {name: _generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
for _name in ("folded/moving_variance", "kept/moving_variance"):
    WEIGHTS[_name] = np.abs(WEIGHTS[_name])


def topology() -> dict[str, Any]:
    layers = copy.deepcopy(LAYERS)
    for place, layer in enumerate(layers):
        layer["inbound_nodes"] = [[[layers[place - 1]["name"], 0, 0, {}]]] if place else []
    config = {"layers": layers, "input_layers": [["input", 0, 0]], "output_layers": [["output", 0, 0]]}
    entries = [{"name": name, "shape": list(shape), "dtype": "float32"} for name, shape in SHAPES.items()]
    return {
        "format": "layers-model",
        "modelTopology": {"model_config": {"class_name": "Functional", "config": config}},
        "weightsManifest": [{"paths": ["one.bin", "two.bin"], "weights": entries}],
    }


def write_model(folder: Path, description: object = None) -> dict[str, Path]:
    """The files of the model; its weights are cut in two shards in the midst of a number."""
    data = b"".join(values.tobytes() for values in WEIGHTS.values())
    text = json.dumps(topology() if description is None else description)
    contents = {"model.json": text.encode(), "one.bin": data[:101], "two.bin": data[101:]}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}
