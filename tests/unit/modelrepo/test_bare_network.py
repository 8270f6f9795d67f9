"""What a bare ONNX file says about itself, and which files no package can be made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from appliance.modelrepo.bare_network import Values, read_network
from tests.support.networks import Axis, write_network, write_one_step, write_two_channels

VOLUME: Sequence[Axis] = ("n", 1, "d", "h", "w")


def write_volume_network(path: Path, *last: onnx.NodeProto, pool: int = 1, channels: int = 3) -> Path:
    """Free axes; optionally down by *pool* and up again, with the image itself joined; then what is given."""
    weights = np.ones((channels, 2, 1, 1, 1), np.float32)
    nodes = [
        helper.make_node("MaxPool", ["image"], ["small"], kernel_shape=[pool] * 3, strides=[pool] * 3),
        helper.make_node("Resize", ["small", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Concat", ["large", "image"], ["joined"], axis=1),
        helper.make_node("Conv", ["joined", "weights"], ["mixed" if last else "probability"]),
        *last,
    ]
    scales = np.array([1, 1, pool, pool, pool], np.float32)
    return write_network(path, nodes, shape=VOLUME, constants={"weights": weights, "scales": scales})


def test_a_radiograph_network(tmp_path: Path) -> None:
    path = write_two_channels(tmp_path / "net.onnx", (1, 1, 8, 6))
    network = read_network(path)
    assert (network.input_tensor, network.axes, network.multiple) == ("image", (8, 6), 1)
    assert (network.output_tensor, network.channels, network.values) == ("probability", 2, "probability")
    assert network.content == path.read_bytes()
    assert (network.other_outputs, network.embedded, network.author, network.licence) == ((), (), "", "")


@pytest.mark.parametrize("pool", [1, 2, 8, 32])
def test_free_axes_and_the_multiple_that_they_need(tmp_path: Path, pool: int) -> None:
    network = read_network(write_volume_network(tmp_path / "net.onnx", pool=pool))
    assert network.axes == (None, None, None)
    assert network.multiple == pool


@pytest.mark.parametrize(
    ("node", "values"),
    [
        (helper.make_node("Sigmoid", ["mixed"], ["probability"]), "probability"),
        (helper.make_node("Softmax", ["mixed"], ["probability"], axis=1), "softmax"),
        (helper.make_node("Softmax", ["mixed"], ["probability"], axis=-4), "softmax"),
        (helper.make_node("Softmax", ["mixed"], ["probability"], axis=-1), "scores"),
        (helper.make_node("Relu", ["mixed"], ["probability"]), "scores"),
    ],
)
def test_what_the_values_are(tmp_path: Path, node: onnx.NodeProto, values: Values) -> None:
    network = read_network(write_volume_network(tmp_path / "net.onnx", node))
    assert (network.values, network.channels) == (values, 3)


def test_labels(tmp_path: Path) -> None:
    node = helper.make_node("ArgMax", ["mixed"], ["probability"], axis=1, keepdims=1)
    path = write_volume_network(tmp_path / "net.onnx", node)
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, path)
    network = read_network(path)
    assert (network.values, network.channels) == ("labels", 1)


def test_outputs_on_other_grids_are_not_read(tmp_path: Path) -> None:
    path = write_volume_network(tmp_path / "net.onnx", helper.make_node("Relu", ["mixed"], ["probability"]), pool=2)
    model = onnx.load(path)
    model.graph.output.insert(0, helper.make_tensor_value_info("small", TensorProto.FLOAT, None))
    model.graph.output.append(helper.make_tensor_value_info("mixed", TensorProto.FLOAT, None))
    onnx.save(model, path)
    network = read_network(path)
    assert network.output_tensor == "probability"
    assert network.other_outputs == ("mixed", "small")


def test_what_the_file_notes(tmp_path: Path) -> None:
    path = write_two_channels(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.producer_name, model.producer_version = "pytorch", "2.13"
    helper.set_model_props(model, {"Author": "A. Nobody\n et al.", "license": "MIT"})
    onnx.save(model, path)
    network = read_network(path)
    assert (network.producer, network.author, network.licence) == ("pytorch 2.13", "A. Nobody et al.", "MIT")


# --- weights beside the file --------------------------------------------------------------------------------


def write_external(folder: Path, **changes: str) -> Path:
    """The two-channel network with its kernel in ``net.data``; *changes* to what the file says of the place."""
    folder.mkdir(exist_ok=True)
    path = write_two_channels(folder / "net.onnx")
    model = onnx.load(path)
    tensor = next(entry for entry in model.graph.initializer if entry.name == "weights")
    (folder / "net.data").write_bytes(b"before" + tensor.raw_data)
    entries = {"location": "net.data", "offset": "6", "length": str(len(tensor.raw_data))} | changes
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_weights_are_brought_in(tmp_path: Path) -> None:
    network = read_network(write_external(tmp_path / "exported"))
    assert network.embedded == ("net.data",)
    plain = onnx.load(write_two_channels(tmp_path / "plain.onnx"))
    found = onnx.load_model_from_string(network.content)
    for one, other in zip(found.graph.initializer, plain.graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"location": "absent.data"}, r"it keeps weights in absent\.data, which is not beside it"),
        ({"location": "../net.data"}, "is not the name of a file beside it"),
        ({"location": "/etc/passwd"}, "is not the name of a file beside it"),
        ({"location": ""}, "is not the name of a file beside it"),
        ({"location": "link.data"}, "is a link to another folder"),
        ({"length": "73"}, r"the weights weights are not in net\.data: offset 6, length 73, the file has 78 bytes"),
        ({"offset": "-1"}, r"the weights weights are not in net\.data"),
        ({"length": "many"}, r"the weights weights are not in net\.data"),
        ({"length": "8"}, "no sound ONNX file"),
    ],
)
def test_external_weights_that_are_not_there(tmp_path: Path, changes: dict[str, str], reason: str) -> None:
    path = write_external(tmp_path / "exported", **changes)
    (tmp_path / "elsewhere").write_bytes(bytes(100))
    (path.parent / "link.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=reason):
        read_network(path)


# --- what cannot be imported --------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(40), b"not a network", bytes(100)])
def test_what_is_no_onnx_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ValueError, match="it is no ONNX file"):
        read_network(tmp_path / "net.onnx")


def test_a_truncated_file(tmp_path: Path) -> None:
    content = write_two_channels(tmp_path / "net.onnx").read_bytes()
    for end in range(0, len(content) - 1, 11):
        (tmp_path / "net.onnx").write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"."):
            read_network(tmp_path / "net.onnx")


def test_damage_anywhere_ends_in_a_network_or_in_one_kind_of_error(tmp_path: Path) -> None:
    content = write_two_channels(tmp_path / "net.onnx").read_bytes()
    random = np.random.default_rng(7)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), 3):
            damaged[place] = random.integers(256)
        (tmp_path / "net.onnx").write_bytes(damaged)
        try:
            read_network(tmp_path / "net.onnx")
        except ValueError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 1), r"its input image is \[1, 1\], it has no axes for an image"),
        ((1, 1, 8), "it has no axes for an image"),
        ((1, 1, 1, 1), "it has no axes for an image"),
        ((1, 1, 2, 2, 2, 2), "it has no axes for an image"),
        ((1, 3, 8, 8), r"is \[1, 3, 8, 8\], expected a batch of 1 and 1 channel"),
        ((1, 8, 8, 1), "in this order and before the axes"),
        ((4, 1, 8, 8), "expected a batch of 1 and 1 channel"),
        ((1, 1, 0, 8), "sizes are positive"),
        ((1, 1, -8, 8), "sizes are positive"),
        ((1, 1, 1 << 20, 1 << 20), "which is more than 268435456 samples"),
        ((1, 1, 1 << 62, 1 << 62), "which is more than 268435456 samples"),
    ],
)
def test_inputs_that_take_no_image(tmp_path: Path, shape: tuple[int, ...], reason: str) -> None:
    path = write_network(tmp_path / "net.onnx", [helper.make_node("Relu", ["image"], ["probability"])], shape=shape)
    with pytest.raises(ValueError, match=reason):
        read_network(path)


def test_several_inputs(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["image", "mask"], ["probability"])
    path = write_network(tmp_path / "net.onnx", [node], more_inputs=["mask"])
    with pytest.raises(ValueError, match=r"it has 2 inputs \(image, mask\), expected one image"):
        read_network(path)


@pytest.mark.parametrize(("kind", "name"), [(TensorProto.FLOAT16, "float16"), (TensorProto.UINT8, "uint8")])
def test_inputs_of_another_type(tmp_path: Path, kind: int, name: str) -> None:
    node = helper.make_node("Identity", ["image"], ["probability"])
    path = write_network(tmp_path / "net.onnx", [node], input_type=kind, output_type=kind)
    with pytest.raises(ValueError, match=f"its input image is {name}, expected float32: export it so"):
        read_network(path)


def test_outputs_of_another_type(tmp_path: Path) -> None:
    node = helper.make_node("Cast", ["image"], ["probability"], to=TensorProto.DOUBLE)
    path = write_network(tmp_path / "net.onnx", [node], output_type=TensorProto.DOUBLE)
    with pytest.raises(ValueError, match="its output probability is double, expected float32 or whole numbers"):
        read_network(path)


def test_a_classifier(tmp_path: Path) -> None:
    node = helper.make_node("GlobalAveragePool", ["image"], ["probability"])
    with pytest.raises(ValueError, match=r"no output has the grid of the input.*probability is \[1, 1, 1, 1\]"):
        read_network(write_network(tmp_path / "net.onnx", [node]))


def test_an_output_whose_shape_cannot_be_known(tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["image"], ["probability"])
    path = write_network(tmp_path / "net.onnx", [node], output_type=TensorProto.INT64)
    with pytest.raises(ValueError, match="its shape is unknown"):
        read_network(path)


def test_more_channels_than_anybody_can_name(tmp_path: Path) -> None:
    weights = {"weights": np.zeros((300, 1, 1, 1), np.float32)}
    node = helper.make_node("Conv", ["image", "weights"], ["probability"])
    with pytest.raises(ValueError, match="has 300 channels, expected 1 to 256"):
        read_network(write_network(tmp_path / "net.onnx", [node], constants=weights))


def test_an_unknown_operator(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is no sound ONNX file: No Op registered for Sharpen"):
        read_network(write_one_step(tmp_path / "net.onnx", "Sharpen"))
