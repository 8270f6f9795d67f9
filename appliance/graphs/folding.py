"""What is pointwise around a network, moved into it: the device does it on the way, and fewer bytes come back.

Before the network: constant scalings. They become a multiplication and an addition in float32, the very arithmetic of
the steps that they replace; runtimes fuse them with what follows. They are not multiplied into the first convolution:
its padding would have to become the value that zero is mapped to, and zero is all that a convolution pads with.

Behind it: the channel that wins, as one byte for each voxel instead of four for each channel; or which voxels are above
a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from appliance.errors import ModelPackageError


@dataclass(frozen=True, slots=True)
class Folding:
    """What is folded.

    Attributes
    ----------
    scalings
        Pairs of a factor and what is added after the multiplication, in order.
    output
        ``winner``: uint8 ``[batch, 1, axes…]``, the channel with the highest value, the first of equals.
        ``above``: bool of the output's shape, whether the value is above ``threshold``. ``None``: left as it is.
    """

    scalings: tuple[tuple[float, float], ...]
    output: Literal["winner", "above"] | None
    threshold: float = 0.0

    @property
    def changes(self) -> bool:
        """Whether there is anything to fold."""
        return bool(self.scalings) or self.output is not None


def fold(model: onnx.ModelProto, input_tensor: str, output_tensor: str, folding: Folding) -> onnx.ModelProto:
    """Return the network with ``folding`` in it; names of inputs and outputs stay, the model given is not changed.

    Raises
    ------
    ModelPackageError
        It does not have these tensors, or gives more channels than a byte can count.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.value_info[:]
    outputs = {entry.name: entry for entry in graph.output}
    if output_tensor not in outputs or input_tensor not in {entry.name for entry in graph.input}:
        raise ModelPackageError(
            "the network does not have the tensors that the manifest names",
            found=f"inputs {[entry.name for entry in graph.input]}, outputs {list(outputs)}",
            expected=f"input {input_tensor!r}, output {output_tensor!r}",
            mend="Correct the stage in the manifest",
        )
    if folding.scalings:
        _fold_scalings(graph, input_tensor, folding.scalings)
    if folding.output is not None:
        _fold_output(graph, outputs[output_tensor], folding)
    return result


def _fold_scalings(graph: onnx.GraphProto, name: str, scalings: tuple[tuple[float, float], ...]) -> None:
    nodes, current = [], name
    for index, (scale, offset) in enumerate(scalings):
        for operator, value, neutral in (("Mul", scale, 1.0), ("Add", offset, 0.0)):
            if value == neutral:
                continue
            constant, after = f"{name}.{operator}{index}.value", f"{name}.{operator}{index}"
            graph.initializer.append(numpy_helper.from_array(np.array(value, dtype=np.float32), constant))
            nodes.append(helper.make_node(operator, [current, constant], [after]))
            current = after
    _rename(graph, name, current)
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *kept])


def _fold_output(graph: onnx.GraphProto, entry: onnx.ValueInfoProto, folding: Folding) -> None:
    name, raw = entry.name, f"{entry.name}.raw"
    channels = entry.type.tensor_type.shape.dim[1] if len(entry.type.tensor_type.shape.dim) > 1 else None
    if folding.output == "winner" and channels is not None and channels.dim_value > 256:
        raise ModelPackageError(
            "the network has more channels than a byte can count", found=str(channels.dim_value), expected="at most 256"
        )
    _rename(graph, name, raw)
    for node in graph.node:
        node.output[:] = [raw if output == name else output for output in node.output]
    if folding.output == "winner":
        graph.node.append(helper.make_node("ArgMax", [raw], [f"{name}.winner"], axis=1, keepdims=1))
        graph.node.append(helper.make_node("Cast", [f"{name}.winner"], [name], to=TensorProto.UINT8))
        entry.type.tensor_type.elem_type = TensorProto.UINT8
        if channels is not None:
            channels.dim_value = 1
    else:
        limit = f"{name}.threshold"
        graph.initializer.append(numpy_helper.from_array(np.array(folding.threshold, dtype=np.float32), limit))
        graph.node.append(helper.make_node("Greater", [raw, limit], [name]))
        entry.type.tensor_type.elem_type = TensorProto.BOOL


def _rename(graph: onnx.GraphProto, before: str, after: str) -> None:
    """Let every node that takes one tensor take another."""
    for node in graph.node:
        node.input[:] = [after if name == before else name for name in node.input]
