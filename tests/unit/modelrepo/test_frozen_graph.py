"""Frozen graph -> ONNX: what is refused, that the bytes are stable, that the numbers are those of the operators."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from scipy import ndimage, special

from appliance.modelrepo.frozen_graph import convert
from tests.unit.modelrepo.graph_defs import (
    WEIGHTS,
    integers,
    message,
    network,
    node,
    number,
    shape,
    tensor,
    text,
    varint,
    whole,
)

GRID = (4, 6, 8)
WHEEL_REQUIREMENT = "deepbrain==0.1"
WHEEL_NAME = "deepbrain-0.1-py3-none-any.whl"
WHEEL_SHA256 = "87c10e8cf906977dfc828320fb0c319e6ff4de460235cfe33a1c04906a8890de"
WHEEL_CACHE = Path(__file__).parents[3] / ".cache" / "wheels"
ONNX_SHA256 = "692d03ba57a793c3293d52ba25148f2a8042ec4f2a99be00abd7d7bb7f9d7226"


def written(path: Path, nodes: dict[str, bytes]) -> Path:
    path.write_bytes(b"".join(nodes.values()))
    return path


def run(model: Path, volume: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    probability: NDArray[np.float32] = session.run(["probability"], {"volume": volume[None, None]})[0]
    return probability[0, 0]


def test_it_computes_what_the_operators_say(tmp_path: Path) -> None:
    convert(written(tmp_path / "graph.pb", network()), tmp_path / "model.onnx", grid=GRID)
    volume = np.random.default_rng(3).normal(size=GRID).astype(np.float32)

    down = np.maximum(convolved(volume[..., None], "down/kernel") + WEIGHTS["down/bias"], 0)
    pooled = down.reshape(2, 2, 3, 2, 4, 2, 2).max(axis=(1, 3, 5))
    joined = np.concatenate([spread(pooled, WEIGHTS["up/kernel"]), down], axis=-1)
    expected = special.expit(convolved(joined, "last/kernel")[..., 0] + WEIGHTS["last/bias"])

    np.testing.assert_allclose(run(tmp_path / "model.onnx", volume), expected, atol=1e-5)


def convolved(x: NDArray[Any], name: str) -> NDArray[Any]:
    """Of SciPy, one axis order throughout: ``[D, H, W, channel]``."""
    kernel = WEIGHTS[name].astype(np.float64)
    maps = [
        sum(
            ndimage.correlate(x[..., i].astype(np.float64), kernel[..., i, o], mode="constant")
            for i in range(x.shape[-1])
        )
        for o in range(kernel.shape[4])
    ]
    return np.stack(maps, axis=-1)


def spread(x: NDArray[Any], kernel: NDArray[np.float32]) -> NDArray[Any]:
    """Each sample laid down twice as far apart, times the kernel; cut to twice the grid at the far end."""
    size = [2 * extent for extent in x.shape[:3]]
    whole_map = np.zeros((*[extent + 1 for extent in size], kernel.shape[3]))
    for place in np.ndindex(*x.shape[:3]):
        d, h, w = (2 * index for index in place)
        whole_map[d : d + 3, h : h + 3, w : w + 3] += np.einsum("dhwoi,i->dhwo", kernel, x[place])
    return whole_map[: size[0], : size[1], : size[2]]


def test_dropout_costs_nothing_and_biases_are_folded(tmp_path: Path) -> None:
    convert(written(tmp_path / "graph.pb", network()), tmp_path / "model.onnx", grid=GRID)
    operators = [entry.op_type for entry in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators == ["Conv", "Relu", "MaxPool", "ConvTranspose", "Concat", "Conv", "Sigmoid"]


def test_the_bytes_do_not_depend_on_the_order_in_the_file(tmp_path: Path) -> None:
    nodes = network()
    convert(written(tmp_path / "graph.pb", nodes), tmp_path / "model.onnx", grid=GRID)
    convert(written(tmp_path / "other.pb", dict(reversed(nodes.items()))), tmp_path / "again.onnx", grid=GRID)
    assert (tmp_path / "model.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


_SAME = {"dilations": integers(1, 1, 1, 1, 1), "data_format": text("NDHWC"), "padding": text("SAME")}
_ONCE, _TWICE = integers(1, 1, 1, 1, 1), integers(1, 2, 2, 2, 1)


@pytest.mark.parametrize(
    ("name", "replacement", "reason"),
    [
        ("img", node("img", "PlaceholderWithDefault", shape=message(7, shape(-1, 5, -1, -1, 1))), "the input is"),
        ("img", node("img", "PlaceholderWithDefault", shape=message(7, shape(-1, 4, 6, 8))), "the input is"),
        ("img", node("img", "PlaceholderWithDefault"), "img: the attribute shape is no shape"),
        ("relu", node("relu", "LeakyRelu", "biased"), "relu: the operator LeakyRelu is not one of"),
        ("relu", node("relu", "Relu", "prob"), "more than 100 operators in a row, or a loop"),
        ("relu", node("relu", "Relu", "biased", "biased"), "relu: 2 inputs, expected 1"),
        ("relu", node("relu", "Relu", "absent"), "the node 'absent' is missing"),
        ("relu", node("pool", "Relu", "biased"), "two nodes are called 'pool'"),
        ("relu", node("relu", "Sigmoid", "biased"), "2 nodes are a Sigmoid"),
        ("prob", b"", "0 nodes are a Sigmoid"),
        ("prob", node("prob", "Sigmoid", "relu"), "the output has 2 channels"),
        ("pred_id", node("pred_id", "Identity", "pred_id"), "identities without end"),
        ("pred_id", node("pred_id", "Const", value=whole(0)), "merge: no dropout: 0 branches"),
        ("merge", node("merge", "Merge", "kept", "kept"), "merge: no dropout: 2 branches"),
        ("kept", node("kept", "Identity", "switch:1"), "merge: no dropout: 0 branches"),
        ("down", node("down", "Conv3D", "img", "down/kernel/read", strides=_TWICE, **_SAME), "only stride 1"),
        ("down", node("down", "Conv3D", "img", "down/kernel/read", **_SAME), "attribute strides is no list"),
        (
            "down",
            node("down", "Conv3D", "img", "last/kernel/read", strides=_ONCE, **_SAME),
            "for 5 channels, it gets 1",
        ),
        ("down", node("down", "Conv3D", "img", "down/bias/read", strides=_ONCE, **_SAME), "expected float32 of 5 axes"),
        ("down", node("down", "Conv3D", "img", "two", strides=_ONCE, **_SAME), "two: weights int32"),
        ("down", node("down", "Conv3D", "img", "down/kernel", strides=integers(1, 1, 1), **_SAME), r"strides is \[1"),
        ("biased", node("biased", "BiasAdd", "down", "last/bias", data_format=text("NHWC")), "a bias for 1 channels"),
        ("biased", node("biased", "BiasAdd", "down", "down/bias", data_format=text("NCHW")), "not on the last axis"),
        ("biased", node("biased", "BiasAdd", "img", "down/bias", data_format=text("NHWC")), "does not follow a conv"),
        ("two", node("two", "Const", value=whole(3)), r"up: the output grows by \[3, 3, 3\]"),
        ("sizes", node("sizes", "Const", value=whole(3)), r"up: the output grows by \[\]"),
        ("axis", node("axis", "Const", value=whole(1)), "not over the channels"),
        ("axis", node("axis", "Const", value=tensor(np.array(1, np.float32))), "expected one whole number"),
        ("axis", node("axis", "Const"), "axis: the attribute value is no tensor"),
        ("axis", node("axis", "Const", value=message(8, number(1, 9))), "a constant of DataType 9"),
        ("axis", node("axis", "Const", value=message(8, number(1, 3))), "0 values for a constant of shape"),
        (
            "last/bias",
            node("last/bias", "Const", value=tensor(np.array([np.nan], np.float32))),
            "last/bias: weights that are no numbers",
        ),
        (
            "last/bias",
            node(
                "last/bias", "Const", value=message(8, number(1, 1) + message(2, shape(1 << 40)) + message(5, b"0000"))
            ),
            "is of no believable size",
        ),
        (
            "last/bias",
            node("last/bias", "Const", value=message(8, number(1, 1) + message(2, shape(-1)) + message(4, b"0000"))),
            "is of no believable size",
        ),
        (
            "last/bias",
            node("last/bias", "Const", value=message(8, number(1, 1) + message(2, shape(3)) + message(4, b"0000"))),
            "4 bytes for a constant of shape",
        ),
        ("queue", message(1, message(2, b"NoOp")), "the node '' has no name"),
        ("queue", message(1, message(1, b"\xff\xfe") + message(2, b"NoOp")), "the name of a node is no text"),
        ("queue", message(1, message(1, b"q" * 600) + message(2, b"NoOp")), "has 600 bytes, expected at most 512"),
        ("queue", node("queue", "Pack", *["img"] * 65), "more than 64 inputs"),
        ("queue", b"\x0b", "field 1 of wire type 3"),
        ("queue", b"\x00\x00", "field 0 of wire type 0"),
        ("queue", b"\xff" * 12, "a number of more than 64 bits"),
        ("queue", varint(1 << 3 | 2) + varint(1 << 62), "truncated: a field of"),
    ],
)
def test_other_graphs_are_refused(tmp_path: Path, name: str, replacement: bytes, reason: str) -> None:
    graph = written(tmp_path / "graph.pb", network() | {name: replacement})
    with pytest.raises(ValueError, match=r"^graph\.pb: not a network that can be converted: .*" + reason):
        convert(graph, tmp_path / "model.onnx", grid=GRID)
    assert not (tmp_path / "model.onnx").exists()


def test_grids_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no network from"):
        convert(written(tmp_path / "graph.pb", network()), tmp_path / "model.onnx", grid=(4, 5, 8))


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x01", b"PK\x03\x04" + bytes(60)])
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "graph.pb").write_bytes(content)
    with pytest.raises(ValueError, match=r"^graph\.pb: not a network"):
        convert(tmp_path / "graph.pb", tmp_path / "model.onnx", grid=GRID)


def test_a_truncated_graph_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    content = b"".join(network().values())
    for end in range(0, len(content), 7):
        (tmp_path / "graph.pb").write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"^graph\.pb: "):
            convert(tmp_path / "graph.pb", tmp_path / "model.onnx", grid=GRID)


def test_damage_anywhere_ends_in_a_network_or_in_one_kind_of_error(tmp_path: Path) -> None:
    content = b"".join(network().values())
    random = np.random.default_rng(7)
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), 3):
            damaged[place] = random.integers(256)
        (tmp_path / "graph.pb").write_bytes(damaged)
        try:
            convert(tmp_path / "graph.pb", tmp_path / "model.onnx", grid=GRID)
        except ValueError as error:
            assert str(error).startswith("graph.pb: ")
            refused += 1
    assert refused > 100


# --- the real network ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def deepbrain_wheel() -> Path:
    """The wheel with the published weights, fetched once by pip; skips where no index can be reached."""
    wheel = WHEEL_CACHE / WHEEL_NAME
    if not wheel.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "1", "--no-deps"]
        command += ["--dest", str(WHEEL_CACHE), WHEEL_REQUIREMENT]
        download = subprocess.run(command, capture_output=True, text=True, check=False)
        if download.returncode != 0:
            pytest.skip(f"pip cannot fetch {WHEEL_REQUIREMENT}: {download.stderr.strip().splitlines()[-1:]}")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == WHEEL_SHA256
    return wheel


@pytest.fixture
def deepbrain(deepbrain_wheel: Path, tmp_path: Path) -> Path:
    """The published network as ONNX."""
    with zipfile.ZipFile(deepbrain_wheel) as container:
        graph = Path(container.extract("deepbrain/models/graph.pb", tmp_path))
    convert(graph, tmp_path / "model.onnx", grid=(128, 128, 128))
    return tmp_path / "model.onnx"


def test_the_published_network_becomes_the_same_bytes_everywhere(deepbrain: Path) -> None:
    assert hashlib.sha256(deepbrain.read_bytes()).hexdigest() == ONNX_SHA256


@pytest.mark.shared_data
def test_the_published_network_against_a_conversion_of_others(deepbrain: Path, shared_data_dir: Path) -> None:
    reference = shared_data_dir.parent / "models" / "onnx" / "deepbrain_v1.onnx"
    if not reference.is_file():
        pytest.skip("the folder of public models is not there")
    radius = np.sqrt(((np.indices((128, 128, 128)) - 63.5) ** 2).sum(axis=0))
    brain_fluid_scalp = np.select([radius < 40, radius < 45, radius < 50], [0.6, 0.1, 0.9], 0.0)
    volume = (brain_fluid_scalp + np.random.default_rng(5).normal(0, 0.03, radius.shape)).astype(np.float32)
    other = onnxruntime.InferenceSession(str(reference), providers=["CPUExecutionProvider"])
    expected = other.run(None, {other.get_inputs()[0].name: volume[None, None]})[0][0, 0]
    assert 0.1 < np.mean(expected > 0.5) < 0.13  # the ball within the fluid is 0.128
    np.testing.assert_allclose(run(deepbrain, volume), expected, atol=1e-5)
