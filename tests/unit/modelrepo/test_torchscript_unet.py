"""TorchScript archive -> ONNX: what is refused, that the bytes are stable, that the numbers are PyTorch's."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from appliance.modelrepo.torchscript_unet import convert

WHEEL_REQUIREMENT = "deepbet==1.0.2"
WHEEL_NAME = "deepbet-1.0.2-py3-none-any.whl"
WHEEL_SHA256 = "1999e2ea00ec48f6233b95b96f3901a962d3f70431c63aeb985e8a49a198473c"
WHEEL_CACHE = Path(__file__).parents[3] / ".cache" / "wheels"

# --- a small archive, assembled opcode by opcode as torch.jit.save writes it --------------------------------


def _text(value: str) -> bytes:
    return pickle.BINUNICODE + len(value).to_bytes(4, "little") + value.encode()


def _integers(*values: int) -> bytes:
    return b"".join(pickle.BININT + value.to_bytes(4, "little") for value in values)


def _global(module_name: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module_name}\n{name}\n".encode()


def _tuple(content: bytes) -> bytes:
    return pickle.MARK + content + pickle.TUPLE


def _tensor(key: str, values: NDArray[np.float32]) -> bytes:
    identifier = _text("storage") + _global("torch", "FloatStorage") + _text(key) + _text("cpu")
    storage = _tuple(identifier + _integers(values.size)) + pickle.BINPERSID
    strides = [stride // values.itemsize for stride in values.strides]
    hooks = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    arguments = _integers(0) + _tuple(_integers(*values.shape)) + _tuple(_integers(*strides))
    rebuilt = _tuple(storage + arguments + pickle.NEWFALSE + hooks)
    return _global("torch._utils", "_rebuild_tensor_v2") + rebuilt + pickle.REDUCE


def _network(attributes: Mapping[str, bytes]) -> bytes:
    state = b"".join(_text(name) + value for name, value in attributes.items())
    record = _global("__torch__", "Net") + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    table = pickle.EMPTY_DICT + pickle.MARK + state + pickle.SETITEMS
    return pickle.PROTO + b"\x02" + record + table + pickle.BUILD + pickle.STOP


CODE = """class Net(Module):
  weight : Tensor
  head : Tensor
  bias : Tensor
  def forward(self: __torch__.Net,
    x: Tensor) -> Tensor:
    weight = self.weight
    _0 = torch._convolution(x, weight, None, [1, 1, 1], [1, 1, 1], [1, 1, 1],
      False, [0, 0, 0], 1, False, False, True, True)
    _1 = torch.instance_norm(_0, None, None, None, None, True, 0.1, 1e-05, True)
    _2 = torch.relu_(_1)
    input = torch.add(_2, _1)
    _3 = torch._convolution(input, self.head, self.bias, [1, 1, 1], [0, 0, 0], [1, 1, 1],
      False, [0, 0, 0], 1, False, False, True, True)
    return torch.softmax(_3, 1)
"""

WEIGHTS: dict[str, NDArray[np.float32]] = {
    "weight": np.random.default_rng(1).normal(size=(3, 1, 3, 3, 3)).astype(np.float32),
    "head": np.random.default_rng(2).normal(size=(2, 3, 1, 1, 1)).astype(np.float32),
    "bias": np.array([0.25, -0.5], np.float32),
}


def _write_archive(path: Path, *, code: str = CODE, data_pkl: bytes | None = None) -> Path:
    if data_pkl is None:
        data_pkl = _network({name: _tensor(name, values) for name, values in WEIGHTS.items()})
    with zipfile.ZipFile(path, "w") as container:
        container.writestr("net/data.pkl", data_pkl)
        container.writestr("net/code/__torch__.py", code)
        for name, values in WEIGHTS.items():
            container.writestr(f"net/data/{name}", values.tobytes())
    return path


def _run(model: Path, volume: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    probability: NDArray[np.float32] = session.run(["probability"], {"volume": volume})[0]
    return probability


def test_small_network_computes_what_its_code_says(tmp_path: Path) -> None:
    grid = (4, 5, 6)
    convert(_write_archive(tmp_path / "net.pt"), tmp_path / "net.onnx", grid=grid)
    volume = np.random.default_rng(3).normal(size=(1, 1, *grid)).astype(np.float32)

    windows = np.lib.stride_tricks.sliding_window_view(np.pad(volume[0, 0], 1), (3, 3, 3))
    activation = np.einsum("dhwxyz,cxyz->cdhw", windows, WEIGHTS["weight"][:, 0], dtype=np.float64)
    variance = activation.var(axis=(1, 2, 3), keepdims=True)
    activation = (activation - activation.mean(axis=(1, 2, 3), keepdims=True)) / np.sqrt(variance + 1e-5)
    # relu_ works in place: the addition after it sees the rectified tensor under both of its names.
    activation = 2 * np.maximum(activation, 0)
    scores = np.einsum("cdhw,kc->kdhw", activation, WEIGHTS["head"][..., 0, 0, 0])
    scores += WEIGHTS["bias"][:, None, None, None]
    expected = np.exp(scores[1]) / np.exp(scores).sum(axis=0)

    probability = _run(tmp_path / "net.onnx", volume)
    assert probability.dtype == np.float32
    assert probability.shape == (1, 1, *grid)
    np.testing.assert_allclose(probability[0, 0], expected, atol=1e-5)


def test_malicious_pickle_is_refused_before_it_runs(tmp_path: Path) -> None:
    trace = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (trace,)

    archive = _write_archive(tmp_path / "net.pt", data_pkl=pickle.dumps(Payload()))
    with pytest.raises(ValueError, match="refused to load"):
        convert(archive, tmp_path / "net.onnx", grid=(4, 4, 4))
    assert not trace.exists()


@pytest.mark.parametrize(
    "name",
    [
        ("os", "system"),
        ("builtins", "getattr"),
        ("collections", "namedtuple"),
        ("torch", "load"),
        ("torch", "HalfStorage"),
        ("torchvision", "FloatStorage"),
        ("__torch__evil", "Net"),
    ],
)
def test_unknown_globals_are_refused(tmp_path: Path, name: tuple[str, str]) -> None:
    archive = _write_archive(tmp_path / "net.pt", data_pkl=b"\x80\x02" + _global(*name) + pickle.STOP)
    with pytest.raises(ValueError, match=r"net\.pt: refused to load " + r"\.".join(name)):
        convert(archive, tmp_path / "net.onnx", grid=(4, 4, 4))


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    archive = _write_archive(tmp_path / "net.pt")
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"net\.pt: damaged or no zip archive"):
        convert(archive, tmp_path / "net.onnx", grid=(4, 4, 4))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    archive = _write_archive(tmp_path / "net.pt")
    content = bytearray(archive.read_bytes())
    content[content.index(WEIGHTS["weight"].tobytes()[:16])] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        convert(archive, tmp_path / "net.onnx", grid=(4, 4, 4))


@pytest.mark.parametrize("data_pkl", [b"", b"\x80\x02", b"\x80\x02N.", b"\x80\x02}.", b"not a pickle"])
def test_pickle_that_is_no_module_tree_is_refused(tmp_path: Path, data_pkl: bytes) -> None:
    archive = _write_archive(tmp_path / "net.pt", data_pkl=data_pkl)
    with pytest.raises(ValueError, match=r"^net\.pt: "):
        convert(archive, tmp_path / "net.onnx", grid=(4, 4, 4))


@pytest.mark.parametrize(
    ("original", "replacement", "reason"),
    [
        ("torch.relu_(_1)", "torch.sigmoid(_1)", "operator torch.sigmoid"),
        ("torch.relu_(_1)", "torch.ops.load('x')", "'torch'"),
        ("torch.relu_(_1)", "(self).forward(_1)", "nested too deeply"),
        ("torch.relu_(_1)", "torch.relu_(_1, _1)", "relu_"),
        ("torch.relu_(_1)", "open('x')", "expression"),
        ("_2 = torch.relu_(_1)", "import os", "unexpected statement"),
        ("torch.relu_(_1)", "self.absent", "no attribute 'absent'"),
        ("torch.add(_2, _1)", "torch.add(_2, x)", "addition of 3 and 1 channels"),
        ("_0, None, None, None, None, True", "_0, self.bias, None, None, None, True", "affine parameters"),
        ("input, self.head, self.bias", "input, self.weight, None", "softmax|network from"),
        ("torch.softmax(_3, 1)", "torch.softmax(_3, 2)", "softmax"),
        ("torch.softmax(_3, 1)", "x", "does not return"),
        ("self.head, self.bias, [1, 1, 1]", "self.head, self.bias, [2, 2, 2]", "no network from"),
        ("class Net", "class Other", "no method forward"),
        ("    return torch.softmax(_3, 1)\n", "", "returns nothing"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, original: str, replacement: str, reason: str) -> None:
    assert original in CODE
    archive = _write_archive(tmp_path / "net.pt", code=CODE.replace(original, replacement))
    with pytest.raises(ValueError, match=reason):
        convert(archive, tmp_path / "net.onnx", grid=(4, 4, 4))
    assert not (tmp_path / "net.onnx").exists()


def test_conversion_is_deterministic(tmp_path: Path) -> None:
    archive = _write_archive(tmp_path / "net.pt")
    for name in ("first.onnx", "second.onnx"):
        convert(archive, tmp_path / name, grid=(4, 4, 4))
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


# --- the real networks --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def deepbet_wheel() -> Path:
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


def _head_phantom(edge: int) -> NDArray[np.float32]:
    """A bright noisy ball on a dark ground: float32 [1, 1, edge, edge, edge]."""
    noise = np.random.default_rng(0).normal(0.449, 0.226, (1, 1, edge, edge, edge)).astype(np.float32)
    radius_squared = ((np.indices((edge, edge, edge)) - (edge - 1) / 2) ** 2).sum(axis=0)
    head = np.where(radius_squared < (0.375 * edge) ** 2, 1.2, -0.3).astype(np.float32)
    return head + np.float32(0.1) * noise


@pytest.mark.parametrize(
    ("member", "edge", "onnx_sha256", "mean_probability", "foreground_voxels"),
    [
        (
            "data/models/bbox_model.pt",
            128,
            "2b968855a2325c15f10af3814c0892a9a1d6015705290f12ef29d35084e7db60",
            0.21456501,
            56321,
        ),
        (
            "data/models/model.pt",
            256,
            "0d874177ebd8a9155691012698982fb557f14dce71733665fb0cd7a4a2f80269",
            0.36051047,
            94620,
        ),
    ],
)
def test_published_networks(
    deepbet_wheel: Path,
    tmp_path: Path,
    member: str,
    edge: int,
    onnx_sha256: str,
    mean_probability: float,
    foreground_voxels: int,
) -> None:
    """The pinned SHA-256 of the ONNX, and on a 64^3 phantom the figures of PyTorch 2.13 (CPU, float32)."""
    with zipfile.ZipFile(deepbet_wheel) as container:
        archive = Path(container.extract(member, tmp_path))
    convert(archive, tmp_path / "full.onnx", grid=(edge, edge, edge))
    assert hashlib.sha256((tmp_path / "full.onnx").read_bytes()).hexdigest() == onnx_sha256

    convert(archive, tmp_path / "small.onnx", grid=(64, 64, 64))
    probability = _run(tmp_path / "small.onnx", _head_phantom(64))
    assert probability.mean(dtype=np.float64) == pytest.approx(mean_probability, abs=1e-4)
    assert np.count_nonzero(probability > 0.5) == pytest.approx(foreground_voxels, abs=20)

    with pytest.raises(ValueError, match="no network from"):
        convert(archive, tmp_path / "odd.onnx", grid=(72, 72, 72))
