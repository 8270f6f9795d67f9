"""A narrow graph has the tensors of the wide one, keeps what is sensitive, and its emulation rounds for real."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from appliance.errors import ModelPackageError
from appliance.graphs.precision import Narrow, reduce_precision
from tests.unit.graphs.graphs import image, network, operators, run, unet

ONE = np.ones((1, 1, 1, 1), np.float32)


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}


def narrow_of(model: onnx.ModelProto, suffix: str) -> list[str]:
    """Operators of the nodes whose output is narrow."""
    return [node.op_type for node in model.graph.node if node.output[0].endswith(suffix) and node.op_type != "Cast"]


@pytest.mark.parametrize("axes", [2, 3])
def test_sensitive_nodes_inputs_and_outputs_stay_in_float32(axes: int) -> None:
    model = unet(axes)
    reduced = reduce_precision(model, "float16")
    onnx.checker.check_model(reduced, full_check=True)
    assert [(o.domain, o.version) for o in reduced.opset_import] == [(o.domain, o.version) for o in model.opset_import]
    types = types_of(reduced)
    assert types["image"] == types["mask"] == TensorProto.FLOAT
    for node in reduced.graph.node:
        if node.op_type in ("InstanceNormalization", "Softmax"):
            assert {types.get(name, TensorProto.FLOAT) for name in (*node.input, *node.output)} == {TensorProto.FLOAT}
    assert narrow_of(reduced, ".float16") == [
        "Conv", "Relu", "MaxPool", "Conv", "Elu", "ConvTranspose", "Concat", "Conv",
    ]  # fmt: skip


def test_casts_are_as_few_as_can_be() -> None:
    """One for the image, two around the normalisation, one before the softmax."""
    assert operators(reduce_precision(unet(), "float16")).count("Cast") == 4


def test_bfloat16_leaves_transposed_convolutions() -> None:
    reduced = reduce_precision(unet(3), "bfloat16")
    assert "ConvTranspose" not in narrow_of(reduced, ".bfloat16")
    assert narrow_of(reduced, ".bfloat16").count("Conv") == 3


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_the_same_network_gives_the_same_bytes_and_is_not_changed(precision: Narrow) -> None:
    model = unet()
    before = model.SerializeToString(deterministic=True)
    made = {reduce_precision(model, precision).SerializeToString(deterministic=True) for _ in range(3)}
    assert len(made) == 1
    assert model.SerializeToString(deterministic=True) == before
    assert len(made.pop()) < len(before)


@pytest.mark.parametrize(("precision", "step"), [("float16", 2.0**-10), ("bfloat16", 2.0**-7)])
def test_the_emulation_rounds_what_goes_in_and_what_comes_out(precision: Narrow, step: float) -> None:
    """ONNX Runtime keeps the casts; what it does with a float16 convolution itself is to leave the rounding out."""
    model = network([helper.make_node("Conv", ["image", "one"], ["mask"])], {"one": ONE})
    emulated = reduce_precision(model, precision, emulate=True)
    tensor = np.full((1, 1, 8, 8), 1 + step * 0.4, np.float32)
    tensor[0, 0, 0, 0] = 1 + step * 0.6
    output = run(emulated, tensor)
    assert output.dtype == np.float32
    assert output[0, 0, 0, 0] == 1 + step
    assert output[0, 0, 1, 1] == 1


def test_the_emulation_rounds_weights_too() -> None:
    model = network([helper.make_node("Conv", ["image", "w"], ["mask"])], {"w": ONE * (1 + 2**-9)})
    assert run(reduce_precision(model, "bfloat16", emulate=True), np.ones((1, 1, 8, 8), np.float32)).max() == 1


def test_the_emulation_overflows_where_float16_does() -> None:
    model = network([helper.make_node("Conv", ["image", "one"], ["mask"])], {"one": ONE})
    tensor = np.full((1, 1, 8, 8), 1e5, np.float32)
    assert np.isinf(run(reduce_precision(model, "float16", emulate=True), tensor)).all()
    assert np.isfinite(run(reduce_precision(model, "bfloat16", emulate=True), tensor)).all()


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(("precision", "bound"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_the_emulation_is_near_the_wide_network_but_not_it(axes: int, precision: Narrow, bound: float) -> None:
    model = unet(axes)
    tensor = image((1, 1, *(16,) * axes))
    difference = np.abs(run(reduce_precision(model, precision, emulate=True), tensor) - run(model, tensor)).max()
    assert bound / 100 < difference < bound


def test_a_weight_that_does_not_fit_keeps_its_node_wide() -> None:
    """Rather than to clamp it."""
    nodes = [
        helper.make_node("Conv", ["image", "one"], ["small"]),
        helper.make_node("Conv", ["small", "large"], ["mask"]),
    ]
    model = network(nodes, {"one": ONE, "large": ONE * 1e6})
    assert narrow_of(reduce_precision(model, "float16"), ".float16") == ["Conv"]
    assert len(narrow_of(reduce_precision(model, "bfloat16"), ".bfloat16")) == 2


def test_a_narrow_tensor_that_is_an_output_too() -> None:
    """It keeps its name and its type."""
    nodes = [helper.make_node("Conv", ["image", "one"], ["mask"]), helper.make_node("Relu", ["mask"], ["positive"])]
    model = network(nodes, {"one": ONE})
    model.graph.output.append(helper.make_tensor_value_info("positive", TensorProto.FLOAT, ["n", "c", "y", "x"]))
    for emulate in (False, True):
        reduced = reduce_precision(model, "float16", emulate=emulate)
        onnx.checker.check_model(reduced, full_check=True)
        assert types_of(reduced)["mask"] == types_of(reduced)["positive"] == TensorProto.FLOAT


def test_sizes_and_scales_stay_what_they_are() -> None:
    """Of a resize only the image is narrow; and constants may come from nodes."""
    nodes = [
        helper.make_node("Constant", [], ["scales"], value_floats=[1.0, 1.0, 2.0, 2.0]),
        helper.make_node("Conv", ["image", "one"], ["small"]),
        helper.make_node("Resize", ["small", "", "scales"], ["large"], mode="linear"),
        helper.make_node("Conv", ["large", "one"], ["mask"]),
    ]
    reduced = reduce_precision(network(nodes, {"one": ONE}), "float16")
    onnx.checker.check_model(reduced, full_check=True)
    assert narrow_of(reduced, ".float16") == ["Conv", "Resize", "Conv"]
    assert run(reduced, image((1, 1, 8, 8))).shape == (1, 1, 16, 16)


def test_nothing_to_gain_is_said() -> None:
    model = network([helper.make_node("Sigmoid", ["image"], ["mask"])], {})
    with pytest.raises(
        ModelPackageError, match=r"nothing in the network could be computed in float16: found .*Sigmoid"
    ):
        reduce_precision(model, "float16")


def test_a_network_that_contradicts_itself() -> None:
    model = network([helper.make_node("Conv", ["image", "w"], ["mask"])], {"w": np.ones((1, 3, 1, 1), np.float32)})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    with pytest.raises(ModelPackageError, match="contradicts itself"):
        reduce_precision(model, "float16")


def test_a_network_that_branches_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["then"])],
        "branch",
        [],
        [helper.make_tensor_value_info("then", TensorProto.FLOAT, None)],
    )
    model = network(
        [helper.make_node("If", ["yes"], ["mask"], then_branch=branch, else_branch=branch)], {"yes": np.array(True)}
    )
    with pytest.raises(ModelPackageError, match="branches"):
        reduce_precision(model, "float16")
