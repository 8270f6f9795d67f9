"""What a graph says about its tensors and operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from appliance.errors import ModelPackageError

_STANDARD = ("", "ai.onnx")


def read_network(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises
    ------
    ModelPackageError
        It is none.
    OSError
        It cannot be read.
    """
    try:
        model = onnx.load(path)
    except DecodeError as error:
        raise ModelPackageError(
            f"{path.name} is no ONNX file", found=str(error)[:200], mend="Fetch it again: appliance models fetch"
        ) from error
    if not model.graph.node:
        raise ModelPackageError(f"{path.name} is no network", found="no nodes in it")
    return model


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether the operator is one of the standard's own."""
    return node.domain in _STANDARD


def operator_set(model: onnx.ModelProto) -> int:
    """Version of the standard operators that the network uses."""
    return max((int(entry.version) for entry in model.opset_import if entry.domain in _STANDARD), default=1)


def constants_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Name → value of every tensor that is the same for each image: initializers, and outputs of ``Constant``."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                found[node.output[0]] = numpy_helper.to_array(attribute.t)
            elif attribute.name in ("value_float", "value_floats"):
                found[node.output[0]] = np.asarray(onnx.helper.get_attribute_value(attribute), dtype=np.float32)
    return found


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Name → ``onnx.TensorProto`` element type of every tensor of the main graph that can be told.

    Raises
    ------
    ModelPackageError
        The network contradicts itself.
    """
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ModelPackageError(
            "the network contradicts itself",
            found=" ".join(str(error).split())[:300],
            mend="Export it again, or let it run as it is, in float32",
        ) from error
    entries = (*graph.input, *graph.value_info, *graph.output)
    types = {entry.name: int(entry.type.tensor_type.elem_type) for entry in entries}
    return types | {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
