"""Maker of frozen graphs, field by field as TensorFlow 1 writes them: a small U-Net with all that deepbrain's has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RANDOM = np.random.default_rng(1)


def _normal(*shape: int) -> NDArray[np.float32]:
    return _RANDOM.normal(size=shape).astype(np.float32)


WEIGHTS: dict[str, NDArray[np.float32]] = {
    "down/kernel": _normal(3, 3, 3, 1, 2),
    "down/bias": _normal(2),
    "up/kernel": _normal(3, 3, 3, 3, 2),
    "last/kernel": _normal(1, 1, 1, 5, 1),
    "last/bias": np.array([0.25], np.float32),
}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    groups = []
    while value > 0x7F or not groups:
        groups.append(value & 0x7F)
        value >>= 7
    return bytes([group | 0x80 for group in groups]) + bytes([value]) if value else bytes(groups)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def shape(*axes: int) -> bytes:
    return b"".join(message(2, number(1, axis)) for axis in axes)


def text(value: str) -> bytes:
    """An attribute that is a string."""
    return message(2, value.encode())


def integers(*values: int) -> bytes:
    """An attribute that is a list of integers."""
    return message(1, message(3, b"".join(varint(value) for value in values)))


def node(name: str, operator: str, *inputs: str, **attributes: bytes) -> bytes:
    return message(
        1,
        message(1, name.encode())
        + message(2, operator.encode())
        + b"".join(message(3, source.encode()) for source in inputs)
        + b"".join(message(5, message(1, key.encode()) + message(2, value)) for key, value in attributes.items()),
    )


def tensor(values: NDArray[Any]) -> bytes:
    """An attribute that is a constant: one value is listed, more are packed bytes, as TensorFlow does it."""
    kind, field = (1, 5) if values.dtype == np.float32 else (3, 7)
    head = number(1, kind) + message(2, shape(*values.shape))
    if values.size > 1:
        return message(8, head + message(4, values.tobytes()))
    listed = values.tobytes() if kind == 1 else varint(int(values.reshape(-1)[0]))
    return message(8, head + message(field, listed))


def whole(value: int) -> bytes:
    return tensor(np.array(value, np.int32))


_PLAIN = {"strides": integers(1, 1, 1, 1, 1), "dilations": integers(1, 1, 1, 1, 1), "data_format": text("NDHWC")}
_SAME = {**_PLAIN, "padding": text("SAME")}
_HALVES = {"strides": integers(1, 2, 2, 2, 1), "data_format": text("NDHWC")}


def network(weights: Mapping[str, NDArray[np.float32]] = WEIGHTS) -> dict[str, bytes]:
    """The nodes by name, the output last: damage them, and join."""
    nodes = {
        "queue": node("queue", "IteratorGetNext"),
        "img": node("img", "PlaceholderWithDefault", "queue", shape=message(7, shape(-1, 4, -1, -1, 1))),
        "training": node("training", "PlaceholderWithDefault", "queue", shape=message(7, b"")),
    }
    for name, values in weights.items():
        nodes[name] = node(name, "Const", value=tensor(values))
        nodes[f"{name}/read"] = node(f"{name}/read", "Identity", name)
    nodes |= {
        "down": node("down", "Conv3D", "img", "down/kernel/read", **_SAME),
        "biased": node("biased", "BiasAdd", "down", "down/bias/read", data_format=text("NHWC")),
        "relu": node("relu", "Relu", "biased"),
        "pool": node(
            "pool", "MaxPool3D", "relu", ksize=integers(1, 2, 2, 2, 1), padding=text("VALID"), **_HALVES
        ),
        "pred_id": node("pred_id", "Identity", "training"),
        "switch": node("switch", "Switch", "pool", "pred_id"),
        "keep_prob": node("keep_prob", "Const", "^training", value=tensor(np.array(0.7, np.float32))),
        "dropped": node("dropped", "RealDiv", "switch:1", "keep_prob"),
        "kept": node("kept", "Identity", "switch"),
        "merge": node("merge", "Merge", "kept", "dropped"),
        "two": node("two", "Const", value=whole(2)),
        "extent": node("extent", "Shape", "merge"),
        "doubled": node("doubled", "Mul", "extent", "two"),
        "sizes": node("sizes", "Pack", "two", "doubled", "doubled", "doubled", "two"),
        "up": node(
            "up", "Conv3DBackpropInputV2", "sizes", "up/kernel/read", "merge",
            padding=text("SAME"), dilations=integers(1, 1, 1, 1, 1), **_HALVES,
        ),
        "axis": node("axis", "Const", value=whole(-1)),
        "concat": node("concat", "ConcatV2", "up", "relu", "axis"),
        "last": node("last", "Conv3D", "concat", "last/kernel/read", **_SAME),
        "score": node("score", "BiasAdd", "last", "last/bias/read", data_format=text("NDHWC")),
        "prob": node("prob", "Sigmoid", "score"),
    }  # fmt: skip
    return nodes
