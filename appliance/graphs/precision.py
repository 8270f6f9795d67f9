"""A float32 network → the same in float16 or bfloat16, with what does not bear it kept in float32.

TensorRT's networks are strongly typed: the precision is that of the graph, so the graph is rewritten. Own code: the
converters that there are know float16 only, put casts around every kept node even where rounding earlier changes
nothing, and clamp weights that do not fit without a word. Names, shapes, opset, and the element types of inputs and
outputs stay; the same network always gives the same bytes.

ONNX Runtime's CPU kernels compute in neither type. To measure on a CPU what the precision costs, ``emulate`` gives a
network that computes in float32 and rounds, through the narrow type, every value that the other network holds in it:
weights, and what each narrow node takes and gives. Sums inside a node stay in float32, as the matrix units of GPUs
and CPUs keep them; the order in which a device adds is its own and cannot be shown.
"""

from __future__ import annotations

from typing import Any, Literal

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from appliance.errors import ModelPackageError
from appliance.graphs.tensors import constants_of, operator_set
from appliance.graphs.tolerance import floating_inputs, tolerant_nodes

Narrow = Literal["float16", "bfloat16"]

_TYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
_LARGEST = {"float16": 65504.0, "bfloat16": 3.38e38}
_LACKING = {"float16": frozenset[str](), "bfloat16": frozenset({"ConvTranspose"})}
"""TensorRT-RTX 1.7 has no transposed convolution in bfloat16."""


def reduce_precision(model: onnx.ModelProto, precision: Narrow, *, emulate: bool = False) -> onnx.ModelProto:
    """Return the network with its convolutions and products in a narrow type; the model given is not changed.

    Parameters
    ----------
    model
        Its floating-point tensors are float32.
    emulate
        Compute in float32 with every narrow value rounded, for runtimes that do not have the type.

    Raises
    ------
    ModelPackageError
        No convolution or product of it could be narrow, or it branches (``If``, ``Loop``, ``Scan``).
    """
    if any(attribute.type == onnx.AttributeProto.GRAPH for node in model.graph.node for attribute in node.attribute):
        raise ModelPackageError(f"a network that branches cannot be run in {precision}", mend="Run it in float32")
    narrow = tolerant_nodes(model, largest=_LARGEST[precision], lacking=_LACKING[precision])
    if not narrow:
        raise ModelPackageError(
            f"nothing in the network could be computed in {precision}",
            found=f"operators {', '.join(sorted({node.op_type for node in model.graph.node}))}",
            mend="Run it in float32",
        )
    rewriting = _Rewriting(model, precision, emulate)
    for index, node in enumerate(model.graph.node):
        rewriting.add(node, index in narrow)
    return rewriting.result()


class _Rewriting:
    """One rewriting; a tensor ``t`` is called ``t`` where it is float32 and ``t.<precision>`` where it is narrow."""

    def __init__(self, model: onnx.ModelProto, precision: Narrow, emulate: bool) -> None:
        self._model = model
        self._suffix = f".{precision}"
        self._type = _TYPES[precision]
        self._emulate = emulate
        self._opset = operator_set(model)
        self._constants = constants_of(model)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._given = {*self._constants, *(entry.name for entry in model.graph.input)}  # in float32, so far
        self._given_narrow: set[str] = set()

    def add(self, node: onnx.NodeProto, narrow: bool) -> None:
        """Append a node, with the casts that it needs before it."""
        floating = floating_inputs(node, self._opset) if narrow else ()
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name:
                copy.input[place] = self._narrow(name) if place in floating else self._wide(name)
        self._nodes.append(copy)
        if not narrow:
            self._given.update(node.output)
            return
        # Indices (MaxPool) are no floats; only Split gives several tensors of one kind.
        given = node.output if node.op_type == "Split" else node.output[:1]
        self._given.update(node.output[len(given) :])
        for place, name in enumerate(given):
            copy.output[place] = name + self._suffix
            if self._emulate:
                copy.output[place] += ".exact"
                self._round(copy.output[place], name + self._suffix)
            self._given_narrow.add(name)

    def result(self) -> onnx.ModelProto:
        """The whole network; what nothing uses any more is left out."""
        graph = self._model.graph
        for entry in graph.output:
            self._wide(entry.name)
        used = {name for node in self._nodes for name in node.input} | {entry.name for entry in graph.output}
        result = onnx.ModelProto()
        result.CopyFrom(self._model)
        del result.graph.node[:], result.graph.value_info[:], result.graph.initializer[:]
        result.graph.node.extend(n for n in self._nodes if n.op_type != "Constant" or n.output[0] in used)
        result.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in used)
        result.graph.initializer.extend(self._weights.values())
        return result

    def _wide(self, name: str) -> str:
        if name not in self._given:
            # What was rounded and computed in float32 is float32 already.
            source = [name + self._suffix]
            self._nodes.append(
                helper.make_node("Identity", source, [name])
                if self._emulate
                else helper.make_node("Cast", source, [name], to=TensorProto.FLOAT)
            )
            self._given.add(name)
        return name

    def _narrow(self, name: str) -> str:
        result = name + self._suffix
        if name in self._constants:
            if result not in self._weights:
                self._weights[result] = self._weight(result, self._constants[name])
        elif name not in self._given_narrow:
            if self._emulate:
                self._round(name, result)
            else:
                self._nodes.append(helper.make_node("Cast", [name], [result], to=self._type))
            self._given_narrow.add(name)
        return result

    def _round(self, source: str, target: str) -> None:
        self._nodes += [
            helper.make_node("Cast", [source], [f"{target}.cast"], to=self._type),
            helper.make_node("Cast", [f"{target}.cast"], [target], to=TensorProto.FLOAT),
        ]

    def _weight(self, name: str, value: NDArray[Any]) -> onnx.TensorProto:
        element = helper.tensor_dtype_to_np_dtype(self._type)
        rounded = value.astype(element)
        return numpy_helper.from_array(rounded.astype(value.dtype) if self._emulate else rounded, name)
