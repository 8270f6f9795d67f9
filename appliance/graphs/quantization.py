"""A float32 network → the same with int8 convolutions, calibrated on tensors like those that it will be given.

Explicit quantization: QuantizeLinear and DequantizeLinear around what convolutions and products take, as TensorRT,
OpenVINO and ONNX Runtime all read it. Weights per channel, all symmetric (no zero points), biases in float32, and what
a convolution gives is not quantized, because a normalisation or activation in float32 follows: TensorRT wants it so.
Ranges are the smallest and the largest value that occur: that needs the memory of one run, whereas histograms of all
tensors of a three-dimensional network would not fit. ONNX Runtime's quantizer does the work.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from appliance.errors import ModelPackageError
from appliance.graphs.tensors import is_standard

_QUANTIZED = ("Conv", "Gemm", "MatMul")
_LAYERS = (*_QUANTIZED, "ConvTranspose")


def quantize(model: onnx.ModelProto, tensors: Iterable[NDArray[np.float32]]) -> onnx.ModelProto:
    """Return the network with int8 convolutions and products; the model given is not changed.

    The first and the last of them stay in float32: they see the image and give the answer themselves, have little to
    compute, and lose most.

    Parameters
    ----------
    model
        Its floating-point tensors are float32; it has one input.
    tensors
        What the network is given for images like those that it will judge, ``[1, channel, axes…]``, at least one;
        each is taken when it is needed and dropped.

    Raises
    ------
    ModelPackageError
        It has nothing to quantize.
    """
    named = _named(model)
    layers = [node for node in named.graph.node if is_standard(node) and node.op_type in _LAYERS]
    inner = [node.name for node in layers[1:-1] if node.op_type in _QUANTIZED]
    if not inner:
        raise ModelPackageError(
            "nothing in the network could be computed in int8",
            found=f"operators {', '.join(sorted({node.op_type for node in model.graph.node}))}",
            expected=f"{', '.join(_QUANTIZED)} between the first and the last layer",
            mend="Run it in float32 or float16",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            named,
            path,
            _Reader(named.graph.input[0].name, tensors),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTIZED),
            nodes_to_quantize=inner,
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": list(_QUANTIZED),
            },
        )
        result = onnx.load(path)
    del result.metadata_props[:], result.graph.value_info[:]
    result.metadata_props.extend(model.metadata_props)
    return result


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with shapes, and with a name for each node; the quantizer tells nodes apart by their names."""
    named = onnx.shape_inference.infer_shapes(model)
    for index, node in enumerate(named.graph.node):
        node.name = f"{index}.{node.name or node.op_type}"
    add_pre_process_metadata(named)  # else the quantizer advises on standard error to fold what has been folded
    return named


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Hands the tensors to the quantizer, one at a time."""

    def __init__(self, name: str, tensors: Iterable[NDArray[np.float32]]) -> None:
        self._name = name
        self._tensors = iter(tensors)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        tensor = next(self._tensors, None)
        return None if tensor is None else {self._name: tensor}
