"""Small networks, and ONNX Runtime to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8


def network(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, NDArray[Any]],
    *,
    shape: Sequence[int | str] = (1, 1, 8, 8),
    output: str = "mask",
) -> onnx.ModelProto:
    """A network from ``image`` to one output, both float32."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [f"axis{index}" for index in range(len(shape))])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def unet(axes: int = 2, size: int = 16) -> onnx.ModelProto:
    """Convolution, normalisation, pooling, skip connection, transposed convolution, softmax."""
    rng = np.random.default_rng(3)
    kernel = (3,) * axes

    def weights(*channels: int) -> NDArray[np.float32]:
        return (rng.normal(size=(*channels, *kernel)) / np.sqrt(channels[1] * 3**axes)).astype(np.float32)

    pads = [1] * (2 * axes)
    return network(
        [
            helper.make_node("Conv", ["image", "w0"], ["c0"], pads=pads),
            helper.make_node("InstanceNormalization", ["c0", "gain", "shift"], ["n0"]),
            helper.make_node("Relu", ["n0"], ["r0"]),
            helper.make_node("MaxPool", ["r0"], ["p0"], kernel_shape=[2] * axes, strides=[2] * axes),
            helper.make_node("Conv", ["p0", "w1"], ["c1"], pads=pads),
            helper.make_node("Elu", ["c1"], ["e1"]),
            helper.make_node("ConvTranspose", ["e1", "w2"], ["u"], kernel_shape=[2] * axes, strides=[2] * axes),
            helper.make_node("Concat", ["r0", "u"], ["both"], axis=1),
            helper.make_node("Conv", ["both", "w3"], ["logits"], pads=pads),
            helper.make_node("Softmax", ["logits"], ["mask"], axis=1),
        ],
        {
            "w0": weights(4, 1), "gain": np.ones(4, np.float32), "shift": np.zeros(4, np.float32),
            "w1": weights(4, 4), "w2": rng.normal(size=(4, 4, *(2,) * axes)).astype(np.float32) / 4,
            "w3": weights(3, 8),
        },
        shape=(1, 1, *(size,) * axes),
    )  # fmt: skip


def run(model: onnx.ModelProto, tensor: NDArray[np.float32]) -> NDArray[Any]:
    """What ONNX Runtime makes of one input."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: tensor})
    return np.asarray(output)


def operators(model: onnx.ModelProto) -> list[str]:
    """In order."""
    return [node.op_type for node in model.graph.node]


def image(shape: Sequence[int] = (1, 1, 16, 16), seed: int = 1) -> NDArray[np.float32]:
    """Noise between 0 and 1."""
    return np.random.default_rng(seed).random(shape, dtype=np.float32)
