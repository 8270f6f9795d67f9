"""Small ONNX networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from appliance.backends.base import NetworkSpec

SPEC = NetworkSpec("test/net", "image", (1, 1, 8, 8), "mask", "float32")


def write_convolution(path: Path, *, operator: str = "Sigmoid", domain: str = "", batch: int | str = 1) -> Path:
    """``mask = operator(3×3 mean of image)``, float32 ``[batch, 1, 8, 8]``."""
    kernel = numpy_helper.from_array(np.full((1, 1, 3, 3), 1 / 9, dtype=np.float32), "kernel")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernel"], ["mean"], name="smooth", pads=[1, 1, 1, 1]),
            helper.make_node(operator, ["mean"], ["mask"], name="last", domain=domain),
        ],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [kernel],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path
