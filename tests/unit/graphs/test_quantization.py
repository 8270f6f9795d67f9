"""int8 as TensorRT reads it, and near the float32 network on what it was calibrated with."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from appliance.errors import ModelPackageError
from appliance.graphs.quantization import quantize
from tests.unit.graphs.graphs import image, network, operators, run, unet


def calibration(axes: int) -> list[np.ndarray]:
    return [image((1, 1, *(16,) * axes), seed) for seed in (1, 2, 3)]


@pytest.mark.parametrize("axes", [2, 3])
def test_the_inner_convolutions_are_int8(axes: int) -> None:
    """Only what they take is quantized, per channel and without zero points; the ends stay in float32."""
    model = unet(axes)
    result = quantize(model, calibration(axes))
    onnx.checker.check_model(result, full_check=True)
    assert operators(result).count("QuantizeLinear") == 1
    assert operators(result).count("DequantizeLinear") == 2
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    for node in result.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not values[node.input[2]].any()
            assert values[node.input[2]].dtype == np.int8
    (weights,) = (value for value in values.values() if value.dtype == np.int8 and value.ndim == axes + 2)
    assert weights.shape == (4, 4, *(3,) * axes)
    assert np.abs(weights).max() == 127 and weights.min() >= -127
    assert [value.size for name, value in values.items() if name.startswith("w1") and "scale" in name] == [4]


@pytest.mark.parametrize("axes", [2, 3])
def test_it_is_near_the_float32_network(axes: int) -> None:
    model = unet(axes)
    result = quantize(model, calibration(axes))
    tensor = image((1, 1, *(16,) * axes), 9)
    difference = np.abs(run(result, tensor) - run(model, tensor)).max()
    assert 1e-5 < difference < 0.03


def test_tensors_keep_names_types_and_the_opset() -> None:
    model = unet()
    result = quantize(model, calibration(2))
    assert list(result.graph.input) == list(model.graph.input)
    assert [o.name for o in result.graph.output] == ["mask"]
    assert result.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert result.opset_import[0].version == model.opset_import[0].version
    assert list(result.metadata_props) == list(model.metadata_props)


def test_the_same_images_give_the_same_bytes_and_silently(capfd: pytest.CaptureFixture[str]) -> None:
    model = unet()
    before = model.SerializeToString(deterministic=True)
    made = {quantize(model, calibration(2)).SerializeToString(deterministic=True) for _ in range(2)}
    assert len(made) == 1
    assert model.SerializeToString(deterministic=True) == before
    assert "".join(capfd.readouterr()) == ""


def test_the_ranges_are_those_of_the_images() -> None:
    model = unet()
    dim, bright = (quantize(model, [factor * image()]) for factor in (1, 3))
    assert dim.SerializeToString() != bright.SerializeToString()


def test_nothing_to_quantize_is_said() -> None:
    """Two layers are the first and the last."""
    one = np.ones((1, 1, 1, 1), np.float32)
    nodes = [helper.make_node("Conv", ["image", "one"], ["c"]), helper.make_node("Conv", ["c", "one"], ["mask"])]
    with pytest.raises(ModelPackageError, match="nothing in the network could be computed in int8"):
        quantize(network(nodes, {"one": one}), [image((1, 1, 8, 8))])
