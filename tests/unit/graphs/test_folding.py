"""What is folded into a network gives what doing it around the network gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from appliance.errors import ModelPackageError
from appliance.graphs.folding import Folding, fold
from appliance.graphs.precision import reduce_precision
from tests.unit.graphs.graphs import image, network, operators, run, unet

NOTHING = Folding((), None)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("scalings", [((0.226, 0.449),), ((2.0, 0.0),), ((1.0, -3.0),), ((0.5, 0.1), (4.0, -1.0))])
def test_scalings_are_the_steps_they_replace(axes: int, scalings: tuple[tuple[float, float], ...]) -> None:
    """To the last bit, at the borders too, where the convolution pads with zeros."""
    model, tensor = unet(axes), image((1, 1, *(16,) * axes))
    result = fold(model, "image", "mask", Folding(scalings, None))
    onnx.checker.check_model(result, full_check=True)
    scaled = tensor.copy()
    for scale, offset in scalings:
        scaled *= np.float32(scale)
        scaled += np.float32(offset)
    assert np.array_equal(run(result, tensor), run(model, scaled))


def test_scalings_that_do_nothing_leave_no_node() -> None:
    model = unet()
    assert operators(fold(model, "image", "mask", Folding(((1.0, 0.0),), None))) == operators(model)


@pytest.mark.parametrize("axes", [2, 3])
def test_the_winner_is_one_byte(axes: int) -> None:
    model, tensor = unet(axes), image((1, 1, *(16,) * axes))
    result = fold(model, "image", "mask", Folding((), "winner"))
    onnx.checker.check_model(result, full_check=True)
    winners = run(result, tensor)
    assert winners.dtype == np.uint8
    assert np.array_equal(winners, run(model, tensor).argmax(axis=1, keepdims=True))
    assert len(np.unique(winners)) > 1


def test_the_first_of_equals_wins() -> None:
    model = network([helper.make_node("Concat", ["image", "image"], ["mask"], axis=1)], {})
    assert not run(fold(model, "image", "mask", Folding((), "winner")), image((1, 1, 8, 8))).any()


def test_above_is_above_and_not_equal() -> None:
    model = network([helper.make_node("Identity", ["image"], ["mask"])], {})
    result = fold(model, "image", "mask", Folding((), "above", 0.5))
    onnx.checker.check_model(result, full_check=True)
    tensor = np.full((1, 1, 8, 8), 0.5, np.float32)
    tensor[0, 0, 0, 0] = np.nextafter(np.float32(0.5), np.float32(1))
    above = run(result, tensor)
    assert above.dtype == np.bool_ and above.shape == tensor.shape
    assert np.argwhere(above).tolist() == [[0, 0, 0, 0]]


def test_an_output_that_is_used_inside_too() -> None:
    nodes = [helper.make_node("Relu", ["image"], ["mask"]), helper.make_node("Neg", ["mask"], ["other"])]
    model = network(nodes, {})
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1, 1, 8, 8]))
    result = fold(model, "image", "mask", Folding((), "above", 0.5))
    onnx.checker.check_model(result, full_check=True)


def test_it_folds_around_a_narrow_network() -> None:
    """The scaling and the choice stay in float32."""
    result = fold(reduce_precision(unet(), "float16"), "image", "mask", Folding(((0.5, 0.1),), "winner"))
    onnx.checker.check_model(result, full_check=True)
    assert operators(result)[:2] == ["Mul", "Add"] and operators(result)[-2:] == ["ArgMax", "Cast"]


def test_the_model_is_not_changed_and_nothing_is_nothing() -> None:
    model = unet()
    before = model.SerializeToString(deterministic=True)
    fold(model, "image", "mask", Folding(((2.0, 1.0),), "winner"))
    assert model.SerializeToString(deterministic=True) == before
    assert not NOTHING.changes
    assert operators(fold(model, "image", "mask", NOTHING)) == operators(model)


@pytest.mark.parametrize(("given", "taken"), [("volume", "mask"), ("image", "logits")])
def test_other_tensors_than_the_manifest_names(given: str, taken: str) -> None:
    with pytest.raises(ModelPackageError, match="does not have the tensors"):
        fold(unet(), given, taken, Folding(((2.0, 1.0),), "winner"))


def test_more_channels_than_a_byte_counts() -> None:
    model = network([helper.make_node("Tile", ["image", "repeats"], ["mask"])], {"repeats": np.array([1, 300, 1, 1])})
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 300
    with pytest.raises(ModelPackageError, match="more channels than a byte can count"):
        fold(model, "image", "mask", Folding((), "winner"))
