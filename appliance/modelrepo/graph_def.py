"""TensorFlow 1's frozen ``GraphDef`` (``.pb``), read from its wire format as data, without TensorFlow or protobuf.

Layout: Protocol Buffers, *Encoding*; TensorFlow's ``graph.proto``, ``node_def.proto``, ``attr_value.proto``,
``tensor.proto`` and ``tensor_shape.proto``, from which the numbers of the fields below are. Fields that the conversion
does not need (versions, the function library, devices) are passed over, whatever they hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_FLOAT, _INT32 = 1, 3
_VALUES = {_FLOAT: (np.dtype("<f4"), 5), _INT32: (np.dtype("<i4"), 7)}
"""``DataType`` → the type of its elements, and the field of ``TensorProto`` that lists them when there are few."""

_MAX_NODES = 100_000
_MAX_INPUTS = 64
_MAX_AXES = 8
_MAX_ELEMENTS = 1 << 26
_MAX_NAME_BYTES = 512

_Field = tuple[int, int, Any]
"""Number, wire type, and value: an ``int`` for a varint, else a ``memoryview``."""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One node: its operator (``Conv3D``), the names of the tensors it takes, and its attributes, decoded when asked.

    Attributes
    ----------
    inputs
        ``node`` or ``node:output``, as in the file; control inputs (``^node``), which carry no tensor, are left out.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, memoryview]

    def text(self, attribute: str) -> str:
        """Return a string, e.g. ``padding``; raise ``ValueError`` when it is missing or damaged."""
        for number, wire, value in self._fields(attribute):
            if (number, wire) == (2, _BYTES):
                return _decoded(value, f"{self.name}: {attribute}")
        raise ValueError(f"{self.name}: the attribute {attribute} is no string")

    def integers(self, attribute: str) -> list[int]:
        """Return a list of integers, e.g. ``strides``; raise ``ValueError`` when it is missing or damaged."""
        for number, wire, value in self._fields(attribute):
            if (number, wire) == (1, _BYTES):
                return _integers(value, 3)
        raise ValueError(f"{self.name}: the attribute {attribute} is no list of integers")

    def shape(self, attribute: str = "shape") -> list[int]:
        """Return a shape, -1 for a free axis; raise ``ValueError`` when it is missing or damaged."""
        for number, wire, value in self._fields(attribute):
            if (number, wire) == (7, _BYTES):
                return _shape(value)
        raise ValueError(f"{self.name}: the attribute {attribute} is no shape")

    def tensor(self, attribute: str = "value") -> NDArray[Any]:
        """Return a constant, float32 or int32; raise ``ValueError`` when it is missing, damaged or of another type."""
        for number, wire, value in self._fields(attribute):
            if (number, wire) == (8, _BYTES):
                try:
                    return _tensor(value)
                except ValueError as error:
                    raise ValueError(f"{self.name}: {error}") from error
        raise ValueError(f"{self.name}: the attribute {attribute} is no tensor")

    def _fields(self, attribute: str) -> Iterator[_Field]:
        return _fields(self.attributes.get(attribute, memoryview(b"")))


def read_graph(content: bytes) -> dict[str, GraphNode]:
    """Return the nodes of a serialized ``GraphDef`` by name, in the order of the file.

    Raises
    ------
    ValueError
        The content is truncated, no ``GraphDef``, or larger than any network that is meant here.
    """
    nodes: dict[str, GraphNode] = {}
    for number, wire, value in _fields(memoryview(content)):
        if (number, wire) != (1, _BYTES):
            continue
        node = _node(value)
        if node.name in nodes:
            raise ValueError(f"two nodes are called {node.name!r}")
        if len(nodes) == _MAX_NODES:
            raise ValueError(f"more than {_MAX_NODES} nodes")
        nodes[node.name] = node
    if not nodes:
        raise ValueError("no GraphDef: it has no nodes")
    return nodes


def _node(message: memoryview) -> GraphNode:
    name = operator = ""
    inputs: list[str] = []
    attributes: dict[str, memoryview] = {}
    for number, wire, value in _fields(message):
        if wire != _BYTES:
            continue
        match number:
            case 1:
                name = _decoded(value, "the name of a node")
            case 2:
                operator = _decoded(value, f"{name}: the operator")
            case 3:
                inputs.append(_decoded(value, f"{name}: an input"))
            case 5:
                entry = {field: content for field, kind, content in _fields(value) if kind == _BYTES}
                attributes[_decoded(entry.get(1, memoryview(b"")), f"{name}: an attribute")] = entry.get(
                    2, memoryview(b"")
                )
    if not name or not operator or len(inputs) > _MAX_INPUTS:
        raise ValueError(f"no GraphDef: the node {name!r} has no name, no operator, or more than {_MAX_INPUTS} inputs")
    return GraphNode(name, operator, tuple(source for source in inputs if not source.startswith("^")), attributes)


def _tensor(message: memoryview) -> NDArray[Any]:
    """A ``TensorProto``: packed bytes, or a list whose last element stands for all that follow."""
    kind, axes = 0, []
    content: memoryview | None = None
    for number, wire, value in _fields(message):
        if (number, wire) == (1, _VARINT):
            kind = value
        elif (number, wire) == (2, _BYTES):
            axes = _shape(value)
        elif (number, wire) == (4, _BYTES):
            content = value
    if kind not in _VALUES:
        raise ValueError(f"a constant of DataType {kind}, only float32 (1) and int32 (3) can be converted")
    dtype, field = _VALUES[kind]
    size = math.prod(axes)
    if any(extent < 0 for extent in axes) or size > _MAX_ELEMENTS:
        raise ValueError(f"a constant of shape {axes} is of no believable size")
    if content is None:
        values = _listed(message, field, dtype)
        if not 0 < values.size <= max(size, 1):
            raise ValueError(f"{values.size} values for a constant of shape {axes}")
        filled = np.concatenate([values, np.full(size - values.size, values[-1], dtype)])
        return filled.reshape(axes)
    if len(content) != size * dtype.itemsize:
        raise ValueError(f"{len(content)} bytes for a constant of shape {axes}, expected {size * dtype.itemsize}")
    return np.frombuffer(content, dtype).reshape(axes)


def _listed(message: memoryview, field: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The elements of a repeated field, packed or one by one."""
    if dtype.kind == "i":
        return np.array(_integers(message, field), np.int64).astype(dtype)
    values = b"".join(
        bytes(value) for number, wire, value in _fields(message) if number == field and wire in (_FIXED32, _BYTES)
    )
    if len(values) % dtype.itemsize:
        raise ValueError(f"{len(values)} bytes of listed values")
    return np.frombuffer(values, dtype)


def _shape(message: memoryview) -> list[int]:
    axes = []
    for number, wire, value in _fields(message):
        if (number, wire) == (2, _BYTES):
            sizes = _integers(value, 1)
            axes.append(sizes[-1] if sizes else 0)
    if len(axes) > _MAX_AXES:
        raise ValueError(f"a shape of {len(axes)} axes")
    return axes


def _integers(message: memoryview, field: int) -> list[int]:
    """The elements of a repeated integer field, packed or one by one."""
    found = []
    for number, wire, value in _fields(message):
        if number != field:
            continue
        if wire == _VARINT:
            found.append(_signed(value))
        elif wire == _BYTES:
            place = 0
            while place < len(value):
                element, place = _varint(value, place)
                found.append(_signed(element))
    return found


def _fields(message: memoryview) -> Iterator[_Field]:
    """The fields of a message, in the order of the file."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if number == 0 or wire not in (_VARINT, _FIXED64, _BYTES, _FIXED32):
            raise ValueError(f"no GraphDef: field {number} of wire type {wire}")
        if wire == _VARINT:
            whole, place = _varint(message, place)
            yield number, wire, whole
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire, 0)
        if wire == _BYTES:
            size, place = _varint(message, place)
        if size > len(message) - place:
            raise ValueError(f"truncated: a field of {size} bytes, of which {len(message) - place} are there")
        yield number, wire, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """An unsigned integer of at most 64 bits, seven to a byte, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("truncated: it ends within a number")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, place
    raise ValueError("no GraphDef: a number of more than 64 bits")


def _signed(value: int) -> int:
    """An ``int64`` or ``int32``, which the wire format writes as its two's complement in 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def _decoded(value: memoryview, what: str) -> str:
    if len(value) > _MAX_NAME_BYTES:
        raise ValueError(f"{what} has {len(value)} bytes, expected at most {_MAX_NAME_BYTES}")
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is no text") from error
