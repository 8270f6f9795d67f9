"""What a bare ONNX file says about itself: its tensors, their shapes and types, what its values mean.

Nothing is run here: shapes are those that ONNX's own shape inference finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from appliance.modelrepo.external_data import embed

Values = Literal["probability", "softmax", "labels", "scores"]
"""Of the output: after a sigmoid; after a softmax over the channels; whole numbers; anything else."""

_MAX_BYTES = (1 << 31) - 1
_MAX_ELEMENTS = 1 << 28
_MAX_CHANNELS = 256
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)
_PRIME = 11
"""Times a multiple: a size that fits the network by chance fits no other multiple of the list."""

_MAX_DATA_FOR_SHAPES = 4096
"""Bytes; larger constants are weights, whose shape is all that shape inference needs."""


@dataclass(frozen=True, slots=True)
class BareNetwork:
    """One image in, one map on its grid out: what the appliance can run.

    Attributes
    ----------
    content
        The whole file, external weights included.
    axes
        Samples along each spatial axis of the input, two or three of them; ``None`` where the axis is free.
    multiple
        Sizes along free axes are multiples of this; 1 when any size fits.
    channels
        Of the output; 1 for whole numbers.
    other_outputs
        Outputs that nobody reads.
    embedded
        Files whose weights are now in ``content``.
    producer, author, licence
        As the file says; empty where it does not.
    """

    content: bytes
    input_tensor: str
    axes: tuple[int | None, ...]
    multiple: int
    output_tensor: str
    channels: int
    values: Values
    other_outputs: tuple[str, ...]
    embedded: tuple[str, ...]
    producer: str
    author: str
    licence: str


def read_network(path: Path) -> BareNetwork:
    """Read an ONNX file.

    Raises
    ------
    ValueError
        It is no sound ONNX file, or none that takes one image ``[1, 1, axes…]`` in float32 and gives a map on the same
        grid; the message is the rest of a sentence about the file.
    OSError
        It cannot be read.
    """
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(f"it has {size} bytes, an ONNX file has at most {_MAX_BYTES}")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise ValueError("it is no ONNX file, or damaged") from error
    if not model.graph.node:
        raise ValueError("it is no ONNX file, or has no operators")
    embedded = embed(model, path.parent)
    try:
        content = model.SerializeToString(deterministic=True) if embedded else path.read_bytes()
        _check(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ValueError(f"it is no sound ONNX file: {_first_line(error)}") from error
    entry = _image_input(model.graph)
    axes = _axes(entry)
    multiple, shapes = _on_its_own_grid(model, entry.name, axes)
    output, *others = shapes
    shape, kind = shapes[output]
    return BareNetwork(
        content=content,
        input_tensor=entry.name,
        axes=axes,
        multiple=multiple,
        output_tensor=output,
        channels=shape[1],
        values=_values(model.graph, output, kind, len(shape)),
        other_outputs=(*others, *(o.name for o in model.graph.output if o.name not in shapes)),
        embedded=tuple(embedded),
        producer=" ".join(filter(None, (model.producer_name, model.producer_version)))[:64],
        author=_metadata(model, "author", "authors", "manufacturer"),
        licence=_metadata(model, "license", "licence"),
    )


def _check(model: onnx.ModelProto) -> None:
    """The checker of ONNX, which wants more than runtimes do: the shape of every output, if only a wrong one."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    for output in inferred.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(inferred)


def _image_input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    """The one input that is no weight."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(entry.name for entry in inputs[:8]) or "none"
        raise ValueError(f"it has {len(inputs)} inputs ({names}), expected one image")
    entry: onnx.ValueInfoProto = inputs[0]
    if not entry.type.HasField("tensor_type"):
        raise ValueError(f"its input {entry.name} is no tensor")
    kind = entry.type.tensor_type.elem_type
    if kind != TensorProto.FLOAT:
        raise ValueError(f"its input {entry.name} is {_type_name(kind)}, expected float32: export it so")
    return entry


def _axes(entry: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """The spatial axes of the input; batch and channel must admit 1."""
    found = [axis.dim_value if axis.HasField("dim_value") else None for axis in entry.type.tensor_type.shape.dim]
    shown = ", ".join("free" if size is None else str(size) for size in found)
    if len(found) not in (4, 5):
        raise ValueError(
            f"its input {entry.name} is [{shown}], it has no axes for an image: expected [1, 1, rows, columns] or "
            "[1, 1, depth, rows, columns]"
        )
    if any(size is not None and size <= 0 for size in found):
        raise ValueError(f"its input {entry.name} is [{shown}], sizes are positive")
    if found[0] not in (None, 1) or found[1] not in (None, 1):
        raise ValueError(
            f"its input {entry.name} is [{shown}], expected a batch of 1 and 1 channel, in this order and before the "
            "axes: grey images are judged one at a time"
        )
    axes = tuple(found[2:])
    if all(size == 1 for size in axes):
        raise ValueError(f"its input {entry.name} is [{shown}], it has no axes for an image")
    elements = 1
    for size in axes:
        elements *= size or 1
    if elements > _MAX_ELEMENTS:
        raise ValueError(f"its input {entry.name} is [{shown}], which is more than {_MAX_ELEMENTS} samples")
    return axes


_Shapes = dict[str, tuple[list[int], int]]
"""Name of an output → its shape and element type."""


def _on_its_own_grid(model: onnx.ModelProto, name: str, axes: Sequence[int | None]) -> tuple[int, _Shapes]:
    """The least multiple for which an output has the grid of the input, and all outputs that have it."""
    bare = _without_weights(model)
    refusals = []
    for multiple in _MULTIPLES if None in axes else (1,):
        grid = [multiple * _PRIME if size is None else size for size in axes]
        try:
            outputs = _inferred(bare, name, [1, 1, *grid])
        except onnx.shape_inference.InferenceError as error:
            refusals.append(_first_line(error))
            continue
        fitting = {key: found for key, found in outputs.items() if found[0][:1] + found[0][2:] == [1, *grid]}
        if fitting:
            _check_output(fitting)
            return multiple, fitting
        refusals.append(
            "; ".join(f"{key} is {shape} for an input of {[1, 1, *grid]}" for key, (shape, _) in outputs.items())
        )
    raise ValueError(f"no output has the grid of the input, as a mask must: {refusals[-1] or _unknown(bare)}")


def _unknown(bare: onnx.ModelProto) -> str:
    foreign = sorted({node.domain for node in bare.graph.node} - {"", "ai.onnx"})
    return "its shape is unknown" + (f", because of operators of {', '.join(foreign)[:128]}" if foreign else "")


def _check_output(fitting: _Shapes) -> None:
    """The first of the outputs is the one that counts."""
    name, (shape, kind) = next(iter(fitting.items()))
    if not 1 <= shape[1] <= _MAX_CHANNELS:
        raise ValueError(f"its output {name} has {shape[1]} channels, expected 1 to {_MAX_CHANNELS}")
    if kind in _WHOLE_NUMBERS:
        if shape[1] != 1:
            raise ValueError(f"its output {name} has {shape[1]} channels of whole numbers, expected one, of labels")
    elif kind != TensorProto.FLOAT:
        raise ValueError(f"its output {name} is {_type_name(kind)}, expected float32 or whole numbers: export it so")


_WHOLE_NUMBERS = (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for shape inference, which is then quick: large weights become inputs, of which only the shape is known.

    Shapes that the exporter wrote down are dropped: it had other sizes along free axes in mind.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    given = {entry.name for entry in bare.graph.input}
    kept = []
    for tensor in bare.graph.initializer:
        if tensor.ByteSize() <= _MAX_DATA_FOR_SHAPES:
            kept.append(tensor)
        elif tensor.name not in given:
            bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    small = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del bare.graph.initializer[:]
    bare.graph.initializer.extend(small)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    return bare


def _inferred(bare: onnx.ModelProto, name: str, shape: Sequence[int]) -> _Shapes:
    """The outputs whose whole shape can be inferred when the input has this one."""
    for entry in bare.graph.input:
        if entry.name == name:
            entry.CopyFrom(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    found = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    shapes = {}
    for output in found.graph.output:
        kind = output.type.tensor_type
        if kind.HasField("shape") and all(axis.HasField("dim_value") for axis in kind.shape.dim):
            shapes[output.name] = ([axis.dim_value for axis in kind.shape.dim], kind.elem_type)
    return shapes


def _values(graph: onnx.GraphProto, output: str, kind: int, rank: int) -> Values:
    """What the last operator makes of its values."""
    if kind in _WHOLE_NUMBERS:
        return "labels"
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in ("Identity", "Cast"):
        node = makers.get(node.input[0])
    if node is not None and node.op_type == "Sigmoid":
        return "probability"
    if node is not None and node.op_type == "Softmax":
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
        return "softmax" if axis % rank == 1 else "scores"
    return "scores"


def _metadata(model: onnx.ModelProto, *keys: str) -> str:
    """What the file's own notes say under one of the keys, on one line."""
    notes = {entry.key.lower(): entry.value for entry in model.metadata_props}
    return next((" ".join(notes[key].split())[:64] for key in keys if notes.get(key, "").strip()), "")


def _type_name(kind: int) -> str:
    try:
        return str(TensorProto.DataType.Name(kind)).lower()
    except ValueError:
        return f"of the unknown type {kind}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
