"""Which nodes of a network bear a narrow floating-point type."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from appliance.graphs.tensors import constants_of, element_types, is_standard, operator_set

_COMPUTING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Where the time goes; they add up in float32 inside, whatever they take and give."""

_FOLLOWING = frozenset({"Add", "AveragePool", "Clip", "Div", "Elu", "LeakyRelu", "Mul", "PRelu", "Resize", "Sub"})
"""Narrow when all that they take is narrow already."""

_SELECTING = frozenset(
    {
        "Concat", "DepthToSpace", "Flatten", "Identity", "MaxPool", "Pad", "Relu", "Reshape", "Slice", "SpaceToDepth",
        "Split", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""They choose values and make none: rounding before them gives the very values that rounding behind them gives."""


def tolerant_nodes(model: onnx.ModelProto, *, largest: float, lacking: frozenset[str]) -> frozenset[int]:
    """Return the indices of the nodes that can compute in a narrow type.

    Convolutions and products do; what comes between them does where that adds no rounding that their inputs would not
    get anyway, or where all that it takes is narrow. Normalisation, softmax, sigmoid, reductions, and every operator
    that is not known here do not, and neither does a node with a weight beyond ``largest``.
    """
    types, constants = element_types(model), constants_of(model)
    nodes = list(model.graph.node)
    outputs = {entry.name for entry in model.graph.output}
    opset = operator_set(model)
    maker = {name: index for index, node in enumerate(nodes) for name in node.output}
    users: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        for name in node.input:
            users.setdefault(name, []).append(index)

    def bears(node: onnx.NodeProto) -> bool:
        if not is_standard(node) or node.op_type in lacking or types.get(node.output[0]) != TensorProto.FLOAT:
            return False
        weights = (constants.get(node.input[place]) for place in floating_inputs(node, opset))
        return all(_largest(weight) <= largest for weight in weights if weight is not None)

    chosen: set[int] = set()
    for index, node in enumerate(nodes):
        if node.op_type in _COMPUTING and bears(node):
            chosen.add(index)
        elif node.op_type in _FOLLOWING | _SELECTING and bears(node):
            taken = {node.input[place] for place in floating_inputs(node, opset)} - constants.keys()
            if taken and all(maker.get(name) in chosen for name in taken):
                chosen.add(index)
    for index, node in reversed(list(enumerate(nodes))):
        if node.op_type in _SELECTING and outputs.isdisjoint(node.output) and bears(node):
            followers = [user for name in node.output for user in users.get(name, [])]
            if followers and chosen.issuperset(followers):
                chosen.add(index)
    return frozenset(chosen)


def floating_inputs(node: onnx.NodeProto, opset: int) -> list[int]:
    """Places of the inputs that have the element type of the node's output; sizes, scales and axes have their own."""
    formal = onnx.defs.get_schema(node.op_type, opset)
    result = formal.outputs[0].type_str
    last = len(formal.inputs) - 1
    return [
        place for place, name in enumerate(node.input) if name and formal.inputs[min(place, last)].type_str == result
    ]


def _largest(weight: NDArray[np.generic]) -> float:
    return float(np.abs(weight).max(initial=0))
