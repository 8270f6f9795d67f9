"""Frozen graph of TensorFlow 1 of a 3D segmentation network -> ONNX, with neither TensorFlow nor torch.

The graph is walked back from its one ``Sigmoid`` to its input, so what only training or the input queue needs is never
looked at; each operator on the way becomes a node, anything else is refused. Written for the network of deepbrain 0.1,
a U-Net in three dimensions of 171 k parameters:

========================= =========================================================================================
operators                 become
========================= =========================================================================================
``Conv3D``, ``BiasAdd``   Conv, stride 1, padding *same*; kernels ``[D, H, W, in, out]`` transposed
``Conv3DBackpropInputV2`` ConvTranspose whose output is the stride times larger; kernels ``[D, H, W, out, in]``
``MaxPool3D``             MaxPool, padding *valid*
``ConcatV2``              Concat, over the channels
``Relu``, ``Sigmoid``     the same
``Switch`` … ``Merge``    nothing: dropout, whose branch *not training* returns what it gets
``Identity``              nothing
========================= =========================================================================================

TensorFlow's activations are ``[N, D, H, W, C]``, ONNX's ``[N, C, D, H, W]``; D, H, W stay the same three axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from appliance.modelrepo.graph_def import GraphNode, read_graph

INPUT_NAME = "volume"
OUTPUT_NAME = "probability"
OPSET_VERSION = 17
IR_VERSION = 8  # that of opset 17; the default follows the onnx release and would change the bytes

_MAX_BYTES = 256 * 1024 * 1024
_MAX_DEPTH = 100  # operators between input and output; deepbrain's network has 35
_CHANNELS_LAST = "NDHWC"
_PLACEHOLDERS = ("Placeholder", "PlaceholderWithDefault")


def convert(graph: Path, destination: Path, *, grid: tuple[int, int, int]) -> None:
    """Write the network of a frozen graph as ONNX (opset 17, float32) to *destination*.

    The bytes depend on the graph's weights and operators and on *grid* alone, so their SHA-256 can be pinned.

    Parameters
    ----------
    graph
        A serialized ``GraphDef`` (``.pb``) of a network ``[N, D, H, W, 1]`` → sigmoid of one channel.
    destination
        File to write; its folder exists. An existing file is replaced.
    grid
        D, H, W of the input, in voxels; where the graph fixes an axis, that size.

    Raises
    ------
    ValueError
        The file is damaged, or has an operator that this module does not know; the message names what.
    OSError
        *graph* cannot be read or *destination* cannot be written.
    """
    model = onnx_model(graph, grid=grid)
    destination.write_bytes(model.SerializeToString(deterministic=True))


def onnx_model(graph: Path, *, grid: tuple[int, int, int]) -> onnx.ModelProto:
    """Return the network as a checked ONNX model; arguments and errors as for :func:`convert`.

    Input ``volume``: float32 ``[1, 1, D, H, W]``, prepared as the network was trained. Output ``probability``: float32
    ``[1, 1, D, H, W]``, 0..1.
    """
    size = graph.stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(f"{graph.name}: {size} bytes, expected at most {_MAX_BYTES}")
    try:
        walk = _Walk(read_graph(graph.read_bytes()), grid)
        walk.finish()
    except ValueError as error:
        raise ValueError(f"{graph.name}: not a network that can be converted: {error}") from error
    shape = [1, 1, *grid]
    model = helper.make_model(
        helper.make_graph(
            walk.made,
            "segmentation",
            [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(values, name) for name, values in walk.initializers.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET_VERSION)],
        ir_version=IR_VERSION,
        producer_name="",
    )
    try:
        # full_check infers every shape: it refuses skip connections between different grids, and an output whose
        # shape is not the one declared above.
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"{graph.name}: no network from {shape} to {shape}: {error}") from error
    return model


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An activation ``[N, C, D, H, W]``."""

    name: str
    channels: int


@dataclass
class _Walk:
    """Follows the inputs of the last operator back to the placeholder; what comes first in the file does not matter."""

    nodes: Mapping[str, GraphNode]
    grid: tuple[int, int, int]
    made: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _known: dict[str, _Tensor] = field(default_factory=dict)

    def finish(self) -> None:
        """Walk from the one ``Sigmoid``, whose output becomes that of the model."""
        ends = [node.name for node in self.nodes.values() if node.operator == "Sigmoid"]
        if len(ends) != 1:
            raise ValueError(f"{len(ends)} nodes are a Sigmoid, expected one: the output")
        output = self._tensor(ends[0], 0)
        if output.channels != 1:
            raise ValueError(f"the output has {output.channels} channels, expected one")
        if {INPUT_NAME, OUTPUT_NAME} & {*self.initializers, *(node.name for node in self.made)}:
            raise ValueError(f"a node is called {INPUT_NAME} or {OUTPUT_NAME}, as the input and output will be")
        self.made[-1].output[0] = OUTPUT_NAME

    def _tensor(self, source: str, depth: int) -> _Tensor:
        """The tensor that an input names; each is made once."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"{source}: more than {_MAX_DEPTH} operators in a row, or a loop")
        if source not in self._known:
            self._known[source] = self._made(self._node(source), depth + 1)
        return self._known[source]

    def _made(self, node: GraphNode, depth: int) -> _Tensor:
        match node.operator:
            case "Placeholder" | "PlaceholderWithDefault":
                return self._input(node)
            case "Identity":
                return self._tensor(_inputs(node, 1)[0], depth)
            case "Merge":
                return self._tensor(self._not_training(node), depth)
            case "BiasAdd":
                return self._biased(node, depth)
            case "Conv3D":
                return self._convolution(node, None, depth)
            case "Conv3DBackpropInputV2":
                return self._transposed_convolution(node, depth)
            case "MaxPool3D":
                return self._max_pool(node, depth)
            case "ConcatV2":
                return self._concatenation(node, depth)
            case "Relu" | "Sigmoid":
                tensor = self._tensor(_inputs(node, 1)[0], depth)
                return self._add(node, node.operator, [tensor.name], tensor.channels)
        raise ValueError(f"{node.name}: the operator {node.operator} is not one of this architecture")

    def _input(self, node: GraphNode) -> _Tensor:
        shape = node.shape()
        fits = len(shape) == 5 and shape[4] == 1
        if not fits or any(size not in (-1, wanted) for size, wanted in zip(shape[1:4], self.grid, strict=True)):
            raise ValueError(f"{node.name}: the input is {shape}, expected {[-1, *self.grid, 1]}")
        return _Tensor(INPUT_NAME, 1)

    def _not_training(self, merge: GraphNode) -> str:
        """The tensor that enters the branch which is taken when the placeholder *training* is false."""
        entered = []
        for source in merge.inputs:
            node, output = self._behind_identities(source)
            if node.operator == "Switch" and output == 0:
                data, predicate = _inputs(node, 2)
                if self._behind_identities(predicate)[0].operator in _PLACEHOLDERS:
                    entered.append(data)
        if len(entered) != 1:
            raise ValueError(f"{merge.name}: no dropout: {len(entered)} branches return what they get, expected one")
        return entered[0]

    def _behind_identities(self, source: str) -> tuple[GraphNode, int]:
        """The node that really makes a tensor, and which of its outputs that is."""
        for _ in range(_MAX_DEPTH):
            node = self._node(source)
            if node.operator != "Identity":
                output = source.rpartition(":")[2] if ":" in source else "0"
                return node, int(output) if output.isdecimal() else -1
            (source,) = _inputs(node, 1)
        raise ValueError(f"{source}: identities without end")

    def _biased(self, node: GraphNode, depth: int) -> _Tensor:
        source, bias = _inputs(node, 2)
        convolution = self._node(source)
        # For five axes TensorFlow writes NHWC here, and means that the channels come last.
        if convolution.operator != "Conv3D" or node.text("data_format") not in ("NHWC", _CHANNELS_LAST):
            raise ValueError(f"{node.name}: a bias that does not follow a convolution, or not on the last axis")
        return self._convolution(convolution, bias, depth)

    def _convolution(self, node: GraphNode, bias: str | None, depth: int) -> _Tensor:
        source, filters = _inputs(node, 2)
        tensor = self._tensor(source, depth)
        strides, dilations = _spatial(node, "strides"), _spatial(node, "dilations")
        kernel = self._constant(filters, 5)
        size = list(kernel.shape[:3])
        if strides != [1, 1, 1] or node.text("padding") != "SAME" or any(extent % 2 == 0 for extent in size):
            raise ValueError(f"{node.name}: only stride 1, padding SAME and odd kernels can be converted")
        inputs = [tensor.name, self._weight(filters, kernel)]
        if kernel.shape[3] != tensor.channels:
            raise ValueError(f"{node.name}: a kernel for {kernel.shape[3]} channels, it gets {tensor.channels}")
        if bias is not None:
            values = self._constant(bias, 1)
            if values.size != kernel.shape[4]:
                raise ValueError(f"{node.name}: a bias for {values.size} channels, there are {kernel.shape[4]}")
            inputs.append(self._weight(bias, values))
        pads = [step * (extent // 2) for step, extent in zip(dilations, size, strict=True)]
        return self._add(
            *(node, "Conv", inputs, kernel.shape[4]),
            kernel_shape=size, strides=strides, pads=pads * 2, dilations=dilations,
        )  # fmt: skip

    def _transposed_convolution(self, node: GraphNode, depth: int) -> _Tensor:
        sizes, filters, source = _inputs(node, 3)
        tensor = self._tensor(source, depth)
        strides = _spatial(node, "strides")
        self._require_growth(node, self._node(sizes), strides)
        kernel = self._constant(filters, 5)
        size = list(kernel.shape[:3])
        if node.text("padding") != "SAME" or _spatial(node, "dilations") != [1, 1, 1] or min(size) < max(strides):
            raise ValueError(
                f"{node.name}: only padding SAME, and kernels that reach over the stride, can be converted"
            )
        if kernel.shape[4] != tensor.channels:
            raise ValueError(f"{node.name}: a kernel for {kernel.shape[4]} channels, it gets {tensor.channels}")
        # SAME of the convolution whose gradient this is: on a grid of stride * n it pads max(k - stride, 0), the
        # smaller half in front; this operator cuts the same off.
        surplus = [extent - stride for extent, stride in zip(size, strides, strict=True)]
        pads = [cut // 2 for cut in surplus] + [cut - cut // 2 for cut in surplus]
        inputs = [tensor.name, self._weight(filters, kernel)]
        return self._add(node, "ConvTranspose", inputs, kernel.shape[3], kernel_shape=size, strides=strides, pads=pads)

    def _require_growth(self, node: GraphNode, sizes: GraphNode, strides: Sequence[int]) -> None:
        """Check that the computed output size is that of the input times the stride, on each spatial axis."""
        factors = []
        for source in sizes.inputs[1:4] if sizes.operator == "Pack" and len(sizes.inputs) == 5 else ():
            product = self._node(source)
            if product.operator == "Mul":
                factors.append(self._whole_number(_inputs(product, 2)[1]))
        if factors != list(strides):
            raise ValueError(f"{node.name}: the output grows by {factors}, expected the strides {list(strides)}")

    def _max_pool(self, node: GraphNode, depth: int) -> _Tensor:
        tensor = self._tensor(_inputs(node, 1)[0], depth)
        if node.text("padding") != "VALID":
            raise ValueError(f"{node.name}: only padding VALID can be converted")
        size, strides = _spatial(node, "ksize"), _spatial(node, "strides")
        return self._add(node, "MaxPool", [tensor.name], tensor.channels, kernel_shape=size, strides=strides)

    def _concatenation(self, node: GraphNode, depth: int) -> _Tensor:
        *sources, axis = _inputs(node, None)
        if self._whole_number(axis) not in (-1, 4):
            raise ValueError(f"{node.name}: a concatenation that is not over the channels")
        tensors = [self._tensor(source, depth) for source in sources]
        channels = sum(tensor.channels for tensor in tensors)
        return self._add(node, "Concat", [tensor.name for tensor in tensors], channels, axis=1)

    def _add(self, node: GraphNode, operator: str, inputs: list[str], channels: int, **attributes: Any) -> _Tensor:
        """Append a node, called as in the graph."""
        self.made.append(helper.make_node(operator, inputs, [node.name], name=node.name, **attributes))
        return _Tensor(node.name, channels)

    def _whole_number(self, source: str) -> int:
        node, _ = self._behind_identities(source)
        values = node.tensor()
        if values.dtype != np.int32 or values.size != 1:
            raise ValueError(f"{node.name}: {values.size} values of {values.dtype}, expected one whole number")
        return int(values.reshape(-1)[0])

    def _constant(self, source: str, axes: int) -> NDArray[np.float32]:
        node, _ = self._behind_identities(source)
        values = node.tensor()
        if values.dtype != np.float32 or values.ndim != axes or values.size == 0:
            raise ValueError(f"{node.name}: weights {values.dtype} {values.shape}, expected float32 of {axes} axes")
        if not np.isfinite(values).all():
            raise ValueError(f"{node.name}: weights that are no numbers")
        return values

    def _weight(self, source: str, values: NDArray[np.float32]) -> str:
        """Add weights, kernels in ONNX's order of axes; a name stands for the same values at each use."""
        name = self._behind_identities(source)[0].name
        ordered = values.transpose(4, 3, 0, 1, 2) if values.ndim == 5 else values
        self.initializers.setdefault(name, np.ascontiguousarray(ordered, np.float32))
        return name

    def _node(self, source: str) -> GraphNode:
        name = source.partition(":")[0]
        if name not in self.nodes:
            raise ValueError(f"the node {name!r} is missing")
        return self.nodes[name]


def _inputs(node: GraphNode, count: int | None) -> tuple[str, ...]:
    """The inputs of a node, that many; at least two for ``None``."""
    if len(node.inputs) != count and (count is not None or len(node.inputs) < 2):
        raise ValueError(f"{node.name}: {len(node.inputs)} inputs, expected {count or 'at least 2'}")
    return node.inputs


def _spatial(node: GraphNode, attribute: str) -> list[int]:
    """The setting along D, H and W; it must leave batch and channels alone."""
    values = node.integers(attribute)
    last = node.text("data_format") == _CHANNELS_LAST
    if not last or len(values) != 5 or values[0] != 1 or values[4] != 1 or not all(1 <= n <= 64 for n in values):
        raise ValueError(f"{node.name}: {attribute} is {values}, expected [1, D, H, W, 1] for channels that come last")
    return values[1:4]
