"""Makers of small ONNX networks, and what they compute in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from appliance.backends.base import NetworkSpec
from appliance.manifest.manifest import Precision

Axis = int | str
"""A number, or the name of a free axis."""

_OPSET, _IR_VERSION = 17, 8
_WEIGHTS = np.random.default_rng(11).normal(size=(2, 1, 3, 3)).astype(np.float32)
_BIAS = np.array([0.25, -0.5], np.float32)


def network_spec(
    shape: tuple[int, ...] = (1, 1, 8, 6),
    *,
    input_tensor: str = "image",
    output_tensor: str = "probability",
    precision: Precision = "float32",
    min_shape: tuple[int, ...] | None = None,
) -> NetworkSpec:
    """What a manifest would say of the networks here."""
    return NetworkSpec("example/only", input_tensor, shape, output_tensor, precision, min_shape, min_shape)


def write_network(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    shape: Sequence[Axis] = (1, 1, 8, 6),
    constants: dict[str, NDArray[np.generic]] | None = None,
    more_inputs: Sequence[str] = (),
    input_type: int = TensorProto.FLOAT,
    output_type: int = TensorProto.FLOAT,
) -> Path:
    """Write a network with the input ``image`` (and more of its shape) and the output ``probability``."""
    graph = helper.make_graph(
        nodes,
        "example",
        [helper.make_tensor_value_info(name, input_type, shape) for name in ("image", *more_inputs)],
        [helper.make_tensor_value_info("probability", output_type, None)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.save(model, path)
    return path


def write_two_channels(path: Path, shape: Sequence[Axis] = (1, 1, 8, 6)) -> Path:
    """A convolution to two channels and a sigmoid: what ``two_channels`` computes."""
    nodes = [
        helper.make_node("Conv", ["image", "weights", "bias"], ["mixed"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["mixed"], ["probability"]),
    ]
    return write_network(path, nodes, shape=shape, constants={"weights": _WEIGHTS, "bias": _BIAS})


def two_channels(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same in float64, by its definition: ``[1, 1, row, column]`` → ``[1, 2, row, column]``."""
    rows, columns = image.shape[2:]
    padded = np.pad(image[0, 0].astype(np.float64), 1)
    mixed = np.stack(
        [
            bias + sum(kernel[0, i, j] * padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3))
            for kernel, bias in zip(_WEIGHTS.astype(np.float64), _BIAS, strict=True)
        ]
    )
    return np.asarray(1 / (1 + np.exp(-mixed)))[None]


def write_one_step(path: Path, operator: str) -> Path:
    """A network of one operator without parameters, such as ``Sqrt``."""
    return write_network(path, [helper.make_node(operator, ["image"], ["probability"])])


def write_slow(path: Path, size: int, layers: int) -> Path:
    """A chain of three-dimensional convolutions of 8 channels on ``size``³ voxels, as segmentation networks are."""
    rng = np.random.default_rng(5)
    nodes, constants, before = [], {}, "image"
    for layer in range(layers):
        after = "probability" if layer == layers - 1 else f"layer{layer}"
        constants[f"weights{layer}"] = rng.normal(size=(8, 1 if layer == 0 else 8, 3, 3, 3)).astype(np.float32) * 0.05
        nodes.append(helper.make_node("Conv", [before, f"weights{layer}"], [after], pads=[1] * 6))
        before = after
    return write_network(path, nodes, shape=(1, 1, size, size, size), constants=constants)  # type: ignore[arg-type]
