"""TensorFlow.js layers model of a dilated 3D convolution network -> ONNX, without TensorFlow.

Such a model is ``model.json`` (the layers and a list of the weights) and shards of raw little-endian float32, as
``tensorflowjs_converter`` writes them. All of it is read as data. Written for the MeshNets of brainchop: a chain of

======================= ==========================================================================================
layer                   becomes
======================= ==========================================================================================
``Conv3D``              Conv, stride 1, padding *same*; Keras' kernels ``[D, H, W, in, out]`` transposed
``Conv3D`` ``..._gn``   Conv, then InstanceNormalization without affine parameters, epsilon 1e-5: brainchop's mark for
                        a group norm with as many groups as channels, which Keras 2 has no layer for
``BatchNormalization``  folded into the convolution before it; one that follows something else stays a node
``Activation``          ``linear``, ``relu``, ``elu``, ``gelu`` (the exact one, written with Erf: the operator Gelu came
                        with opset 20, which not every runtime takes)
======================= ==========================================================================================

Fully convolutional, so the spatial axes stay free whatever size ``model.json`` names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from appliance.modelrepo.tfjs_files import TOPOLOGY, Layer, read_layers_model

INPUT_NAME = "volume"
OUTPUT_NAME = "logits"
OPSET_VERSION = 17
IR_VERSION = 8  # that of opset 17; the default follows the onnx release and would change the bytes

_AXES = ("depth", "height", "width")
_GROUP_NORM_MARK = "_gn"
_GROUP_NORM_EPSILON = 1e-5
_MAX_KERNEL = 15
_MAX_DILATION = 256
_MAX_CHANNELS = 4096


def convert(files: Mapping[str, Path], destination: Path) -> None:
    """Write the network of a layers model as ONNX (opset 17, float32) to *destination*.

    The bytes depend on the content of *files* alone, so their SHA-256 can be pinned.

    Parameters
    ----------
    files
        ``model.json`` and the shards that it lists, by name.
    destination
        File to write; its folder exists. An existing file is replaced.

    Raises
    ------
    ValueError
        The files are damaged or do not belong together, or a layer is not one of those above; the message names
        what.
    OSError
        A file cannot be read or written.
    """
    destination.write_bytes(onnx_model(files).SerializeToString(deterministic=True))


def onnx_model(files: Mapping[str, Path]) -> onnx.ModelProto:
    """Return the network as a checked ONNX model; arguments and errors as for :func:`convert`.

    Input ``volume``: float32 ``[1, 1, D, H, W]``, prepared as the network was trained. Output ``logits``: float32
    ``[1, classes, D, H, W]`` on the same grid, before any softmax. D, H and W are free.
    """
    layers, weights = read_layers_model(files)
    graph = _Graph(weights)
    for layer in layers:
        try:
            graph.add(layer)
        except ValueError as error:
            raise ValueError(f"{TOPOLOGY}: layer {layer.name!r}: {error}") from error
    if unused := sorted(weights.keys() - graph.used):
        raise ValueError(f"{TOPOLOGY}: no layer uses the weights {', '.join(unused)}")
    if not graph.nodes:
        raise ValueError(f"{TOPOLOGY}: the network has no layer but its input")
    graph.nodes[-1].output[0] = OUTPUT_NAME
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "segmentation",
            [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [1, graph.input_channels, *_AXES])],
            [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [1, graph.channels, *_AXES])],
            [numpy_helper.from_array(values, name) for name, values in graph.initializers.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET_VERSION)],
        ir_version=IR_VERSION,
        producer_name="",
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"{TOPOLOGY}: no sound network: {error}") from error
    return model


@dataclass
class _Graph:
    """The nodes made so far, of a chain: ``tensor`` with ``channels`` channels is the output of the last."""

    weights: Mapping[str, NDArray[np.float32]]
    tensor: str = INPUT_NAME
    channels: int = 0
    input_channels: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def add(self, layer: Layer) -> None:
        """Append what a layer stands for."""
        match layer.kind:
            case "InputLayer":
                self._input(layer)
            case "Conv3D":
                self._convolution(layer)
            case "BatchNormalization":
                self._batch_norm(layer)
            case "Activation":
                self._activation(layer)
            case _:
                raise ValueError(f"a {layer.kind} is not one of the layers that can be converted")

    def _input(self, layer: Layer) -> None:
        shape = layer.config.get("batch_input_shape")
        if not isinstance(shape, list) or len(shape) != 5 or shape[4] != 1 or self.input_channels:
            raise ValueError(f"the input is {shape}, expected one of [batch, depth, height, width, 1]")
        self.input_channels = self.channels = 1

    def _convolution(self, layer: Layer) -> None:
        for option, wanted in (
            ("padding", "same"),
            ("data_format", "channels_last"),
            ("strides", [1, 1, 1]),
            ("groups", 1),
            ("activation", "linear"),
        ):
            if layer.config.get(option, wanted) != wanted:
                raise ValueError(f"{option} is {layer.config[option]!r}, only {wanted!r} can be converted")
        size = layer.integers("kernel_size", 3, _MAX_KERNEL)
        dilation = layer.integers("dilation_rate", 3, _MAX_DILATION)
        if any(extent % 2 == 0 for extent in size):
            raise ValueError(f"kernel_size is {size}: with an even one, same padding would not be symmetric")
        (filters,) = layer.integers("filters", 1, _MAX_CHANNELS)
        kernel = self._weight(f"{layer.name}/kernel", (*size, self.channels, filters))
        inputs = [self.tensor, self._constant(f"{layer.name}/kernel", kernel.transpose(4, 3, 0, 1, 2))]
        if layer.flag("use_bias"):
            bias = self._weight(f"{layer.name}/bias", (filters,))
            inputs.append(self._constant(f"{layer.name}/bias", bias))
        pads = [step * (extent // 2) for step, extent in zip(dilation, size, strict=True)]
        self.channels = filters
        self._node("Conv", inputs, kernel_shape=size, strides=[1, 1, 1], pads=pads * 2, dilations=dilation)
        if layer.name.endswith(_GROUP_NORM_MARK):
            ones = self._constant(f"ones/{filters}", np.ones(filters, np.float32))
            zeros = self._constant(f"zeros/{filters}", np.zeros(filters, np.float32))
            self._node("InstanceNormalization", [self.tensor, ones, zeros], epsilon=_GROUP_NORM_EPSILON)

    def _batch_norm(self, layer: Layer) -> None:
        """``y = (x - mean) / sqrt(variance + epsilon) * gamma + beta``, per channel."""
        if layer.config.get("axis", [4]) not in ([4], 4, -1, [-1]):
            raise ValueError(f"axis is {layer.config['axis']!r}, only that of the channels can be converted")
        epsilon = layer.number("epsilon", 1e-3)
        shape = (self.channels,)
        gamma, beta = np.ones(shape, np.float32), np.zeros(shape, np.float32)
        if layer.flag("scale"):
            gamma = self._weight(f"{layer.name}/gamma", shape)
        if layer.flag("center"):
            beta = self._weight(f"{layer.name}/beta", shape)
        mean = self._weight(f"{layer.name}/moving_mean", shape)
        variance = self._weight(f"{layer.name}/moving_variance", shape)
        if epsilon < 0 or not np.all(variance.astype(np.float64) + epsilon > 0):
            raise ValueError("the variance is not positive")
        if self.nodes and self.nodes[-1].op_type == "Conv":
            factor = gamma / np.sqrt(variance.astype(np.float64) + epsilon)
            self._fold(factor, beta - mean * factor, layer.name)
            return
        parameters = {"gamma": gamma, "beta": beta, "moving_mean": mean, "moving_variance": variance}
        names = [self._constant(f"{layer.name}/{name}", values) for name, values in parameters.items()]
        self._node("BatchNormalization", [self.tensor, *names], epsilon=epsilon)

    def _fold(self, factor: NDArray[np.float64], offset: NDArray[np.float64], name: str) -> None:
        """Multiply the output of the last convolution and add to it, by changing its kernel and bias."""
        node = self.nodes[-1]
        kernel = self.initializers[node.input[1]]
        scaled = kernel * factor.reshape(-1, 1, 1, 1, 1)
        self.initializers[node.input[1]] = np.ascontiguousarray(scaled, dtype=np.float32)
        if len(node.input) == 2:
            node.input.append(self._constant(f"{name}/bias", np.zeros(self.channels, np.float32)))
        bias = self.initializers[node.input[2]] * factor + offset
        self.initializers[node.input[2]] = bias.astype(np.float32)

    def _activation(self, layer: Layer) -> None:
        match layer.config.get("activation"):
            case "linear":
                pass
            case "relu":
                self._node("Relu", [self.tensor])
            case "elu":
                self._node("Elu", [self.tensor], alpha=1.0)
            case "gelu":
                self._gelu()
            case other:
                raise ValueError(f"the activation {other!r} is not one that can be converted")

    def _gelu(self) -> None:
        """``x / 2 * (1 + erf(x / sqrt(2)))``."""
        value = self.tensor
        self._node("Mul", [value, self._constant("sqrt_half", np.array(math.sqrt(0.5), np.float32))])
        self._node("Erf", [self.tensor])
        self._node("Add", [self.tensor, self._constant("one", np.array(1, np.float32))])
        self._node("Mul", [self.tensor, value])
        self._node("Mul", [self.tensor, self._constant("half", np.array(0.5, np.float32))])

    def _node(self, operator: str, inputs: list[str], **attributes: Any) -> None:
        """Append a node, whose output is named after its place in the graph."""
        self.tensor = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [self.tensor], name=self.tensor, **attributes))

    def _constant(self, name: str, values: NDArray[np.float32]) -> str:
        self.initializers.setdefault(name, np.ascontiguousarray(values))
        return name

    def _weight(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if name not in self.weights:
            raise ValueError(f"the weights {name} are missing")
        if self.weights[name].shape != shape:
            raise ValueError(f"the weights {name} are {self.weights[name].shape}, expected {shape}")
        self.used.add(name)
        return self.weights[name]
