"""Layers model -> ONNX: what is refused, that the bytes are stable, that the numbers are those of the layers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from scipy import ndimage, special

from appliance.modelrepo.keras_layers import convert
from tests.unit.modelrepo.layers_models import NORM, WEIGHTS, topology, write_model

Volume = NDArray[np.float64]

SHA256 = {
    "model18cls": "516bc9c37bff1cf0a459506ee7d2ad6b48aad5c8ea462793d0ef231620c4ad66",
    "model5_gw_ae": "52bc58701800dd9c0f481d2ae00255c9a5af0fa9c9d89090e4cb6ba524649d76",
    "mindgrab": "b751a28119700c458e248ac34bded3c4bea99565e4db9f6de8ebe35c340c1a34",
}


def run(model: Path, volume: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], {"volume": volume[None, None]})[0]
    return logits[0]


def convolved(x: Volume, name: str, dilation: int = 1) -> Volume:
    """Of SciPy, one axis order throughout: ``[D, H, W, channel]``."""
    kernel = WEIGHTS[f"{name}/kernel"].astype(np.float64)
    spread = np.zeros((*[(size - 1) * dilation + 1 for size in kernel.shape[:3]], *kernel.shape[3:]))
    spread[::dilation, ::dilation, ::dilation] = kernel
    maps = [
        sum(ndimage.correlate(x[..., i], spread[..., i, o], mode="constant") for i in range(kernel.shape[3]))
        for o in range(kernel.shape[4])
    ]
    return np.stack(maps, axis=-1) + WEIGHTS.get(f"{name}/bias", 0)


def normalised(x: Volume, name: str) -> Volume:
    gamma, beta, mean, variance = (WEIGHTS[f"{name}/{key}"].astype(np.float64) for key in NORM)
    return (x - mean) / np.sqrt(variance + 0.001) * gamma + beta


def test_it_computes_what_the_layers_say(tmp_path: Path) -> None:
    convert(write_model(tmp_path), tmp_path / "model.onnx")
    volume = np.random.default_rng(3).normal(size=(7, 9, 11)).astype(np.float32)

    x = normalised(convolved(volume[..., None].astype(np.float64), "first", 2), "folded")
    x = normalised(np.where(x > 0, x, np.expm1(x)), "kept")
    x = convolved(x, "second_gn")
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    x = x * special.ndtr(x)
    x = np.maximum(convolved(x, "third"), 0)
    x = convolved(x, "output")

    np.testing.assert_allclose(run(tmp_path / "model.onnx", volume), np.moveaxis(x, -1, 0), atol=2e-5, rtol=1e-4)


def test_a_normalisation_after_a_convolution_costs_nothing(tmp_path: Path) -> None:
    convert(write_model(tmp_path), tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("BatchNormalization") == 1
    assert operators[:3] == ["Conv", "Elu", "BatchNormalization"]


def test_any_size_fits(tmp_path: Path) -> None:
    convert(write_model(tmp_path), tmp_path / "model.onnx")
    for shape in ((5, 5, 5), (6, 12, 9)):
        assert run(tmp_path / "model.onnx", np.zeros(shape, np.float32)).shape == (4, *shape)


def test_the_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    files = write_model(tmp_path)
    convert(files, tmp_path / "model.onnx")
    convert(dict(reversed(files.items())), tmp_path / "again.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


@pytest.mark.shared_data
@pytest.mark.parametrize("name", sorted(SHA256))
def test_published_networks(name: str, tmp_path: Path, shared_data_dir: Path) -> None:
    """The same bytes on every machine; the same outputs as a conversion that others made."""
    models = shared_data_dir.parent / "models"
    if not (models / name).is_dir():
        pytest.skip("the folder of public models is not there")
    convert({path.name: path for path in (models / name).iterdir()}, tmp_path / "model.onnx")
    assert hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest() == SHA256[name]
    volume = np.random.default_rng(5).random((32, 36, 40), np.float32)
    other = onnxruntime.InferenceSession(str(models / "onnx" / f"meshnet_{name}.onnx"))
    expected = other.run(None, {other.get_inputs()[0].name: volume[None, None]})[0][0]
    np.testing.assert_allclose(run(tmp_path / "model.onnx", volume), expected, atol=1e-4, rtol=1e-4)


def layer(description: dict[str, Any], name: str) -> dict[str, Any]:
    layers = description["modelTopology"]["model_config"]["config"]["layers"]
    found: dict[str, Any] = next(entry for entry in layers if entry["name"] == name)
    return found


def weights(description: dict[str, Any]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = description["weightsManifest"][0]["weights"]
    return entries


def configure(name: str, **options: object) -> Callable[[dict[str, Any]], object]:
    return lambda description: layer(description, name)["config"].update(options)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.update(format="graph-model"), "the format is 'graph-model'"),
        (lambda d: d.pop("weightsManifest"), "weightsManifest is NoneType, expected list"),
        (lambda d: d.update(modelTopology=[]), "modelTopology is list, expected dict"),
        (lambda d: layer(d, "relu").update(class_name="Lambda"), "layer 'relu': a Lambda is not one of the layers"),
        (lambda d: layer(d, "relu").update(name="../relu"), r"'\.\./relu' is no name for a layer"),
        (lambda d: layer(d, "relu").update(name="first"), "'first' is no name for a layer, or is there twice"),
        (lambda d: layer(d, "relu").update(inbound_nodes=[[["first", 0, 0, {}]]]), "'relu' does not take the output"),
        (lambda d: layer(d, "input").update(class_name="Activation"), "the input must come first"),
        (lambda d: d["modelTopology"]["model_config"]["config"].update(layers=[]), "input and output are not those"),
        (configure("relu", activation="swish"), "layer 'relu': the activation 'swish'"),
        (configure("input", batch_input_shape=[None, 8, 8, 8, 2]), "expected one of"),
        (configure("third", strides=[2, 2, 2]), r"layer 'third': strides is \[2, 2, 2\]"),
        (configure("third", padding="valid"), "layer 'third': padding is 'valid'"),
        (configure("third", groups=2), "layer 'third': groups is 2"),
        (configure("third", kernel_size=[3, 3, 2]), "with an even one"),
        (configure("third", kernel_size=[3, 3]), r"kernel_size is \[3, 3\], expected 3 whole numbers"),
        (configure("third", dilation_rate=[1, 1, 10**9]), "whole numbers from 1 to 256"),
        (configure("third", filters=True), "filters is True"),
        (configure("third", use_bias="yes"), "use_bias is 'yes'"),
        (configure("third", filters=5), r"third/kernel are \(3, 3, 3, 2, 2\), expected \(3, 3, 3, 2, 5\)"),
        (configure("third", use_bias=False), "no layer uses the weights third/bias"),
        (configure("kept", axis=[1]), r"axis is \[1\]"),
        (configure("kept", epsilon=10**400), "epsilon is no number of a believable size"),
        (configure("kept", epsilon=float("nan")), "epsilon is no number of a believable size"),
        (configure("kept", epsilon=-100.0), "the variance is not positive"),
        (lambda d: weights(d)[-1].update(name="other/bias"), "the weights output/bias are missing"),
        (lambda d: weights(d)[-1].update(name="output/kernel"), "output/kernel are listed twice"),
        (lambda d: weights(d)[-1].update(dtype="uint8"), "output/bias are not plain float32"),
        (lambda d: weights(d)[-1].update(quantization={"scale": 1}), "output/bias are not plain float32"),
        (lambda d: weights(d)[-1].update(shape=[-4]), "output/bias have no believable shape"),
        (lambda d: weights(d)[-1].update(shape=[1 << 24] * 5), r"one\.bin, two\.bin: truncated: .*output/bias need"),
        (lambda d: weights(d)[-1].update(shape=[3]), "of which model.json lists only"),
        (lambda d: d["weightsManifest"][0].update(paths=["one.bin"]), "one.bin: truncated"),
        (lambda d: d["weightsManifest"][0].update(paths=["../one.bin"]), r"names the shard '\.\./one\.bin'"),
        (lambda d: d["weightsManifest"][0].update(paths=[{}]), r"names the shard \{\}"),
    ],
)
def test_what_is_no_such_model_is_refused(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    description = topology()
    damage(description)
    with pytest.raises(ValueError, match=message):
        convert(write_model(tmp_path, description), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff\xfe\x00", b"[" * 200_000, b'{"format": ' + b"9" * 10_000 + b"}", b"[1]", b"null"],
    ids=["empty", "no-text", "deep", "long-number", "list", "null"],
)
def test_what_is_no_json_is_refused(tmp_path: Path, text: bytes) -> None:
    files = write_model(tmp_path)
    files["model.json"].write_bytes(text)
    with pytest.raises(ValueError, match=r"^model\.json: "):
        convert(files, tmp_path / "model.onnx")


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    files = write_model(tmp_path)
    files["two.bin"].write_bytes(files["two.bin"].read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"two\.bin: truncated: the weights output/bias need bytes \d+ to \d+"):
        convert(files, tmp_path / "model.onnx")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    files = write_model(tmp_path)
    content = files["two.bin"].read_bytes()
    files["two.bin"].write_bytes(content[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(ValueError, match="output/bias have values that are no numbers"):
        convert(files, tmp_path / "model.onnx")
