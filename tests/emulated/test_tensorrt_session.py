"""The session of the TensorRT backend: what it holds, what it gives back, and what it makes of a device that fails."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from appliance.backends.base import NetworkSpec, Session
from appliance.backends.cuda_thread import CudaThread
from appliance.backends.gpu_share import GpuShare
from appliance.backends.tensorrt_backend import TensorRtBackend
from appliance.errors import (
    BackendUnavailable,
    DeviceLost,
    DeviceOutOfMemory,
    InferenceTimeout,
    ModelPackageError,
)
from tests.support.cuda import runtime
from tests.support.cuda.backend import EmulatedTensorRt, EmulatedTensorRtProper, convert, double_api
from tests.support.cuda.device import EmulatedDevice
from tests.support.networks import network_spec, two_channels, write_network, write_one_step, write_two_channels

SPEC = network_spec()
TILED = NetworkSpec("example/only", "image", (1, 1, 64, 64), "probability", "float32", (1, 1, 16, 16), (1, 1, 64, 64))


def image(seed: int = 1, shape: tuple[int, ...] = SPEC.input_shape) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(session: Session, tensor: NDArray[np.float32], time_limit_s: float = 60.0) -> NDArray[np.float32]:
    return session.run(tensor, time_limit_s=time_limit_s)


def right(session: Session, seed: int = 1) -> bool:
    return bool(np.abs(run(session, image(seed)) - two_channels(image(seed))).max() < 2e-6)


@pytest.fixture(params=[EmulatedTensorRt, EmulatedTensorRtProper], ids=["tensorrt-rtx", "tensorrt"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> TensorRtBackend:
    """Either distribution."""
    made: TensorRtBackend = request.param(threads=1, cache=tmp_path / "cache")
    return made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_two_channels(tmp_path / "model.onnx")


def free_axes(path: Path, maker: Callable[..., Path] = write_two_channels) -> Path:
    return maker(path, (1, 1, "rows", "columns"))


def pointwise(path: Path) -> Path:
    nodes = [helper.make_node("Relu", ["image"], ["probability"])]
    return write_network(path, nodes, shape=(1, 1, "rows", "columns"))


def test_a_thousand_runs_take_nothing_more(backend: TensorRtBackend, model: Path, device: EmulatedDevice) -> None:
    """Memory, streams and graphs are got when the network is opened, and are all given back when it is closed."""
    with backend.open(model, SPEC) as session:
        assert right(session)
        before = device.counts
        for seed in range(1000):
            assert right(session, seed)
        after = device.counts
    for what in ("allocations", "pinned_allocations", "bytes", "peak", "streams", "graphs", "contexts"):
        assert after[what] == before[what]
    assert after["copies"] - before["copies"] == 2000


def test_as_many_sessions_as_fit_share_the_device(
    backend: TensorRtBackend, model: Path, device: EmulatedDevice
) -> None:
    sessions = [backend.open(model, SPEC) for _ in range(4)]
    assert device.held["contexts"] == 4
    one = device.held["bytes"] // 4
    before = device.limit(device.held["bytes"] + one // 2)
    with pytest.raises(DeviceOutOfMemory, match=r"MiB needed|out of memory"):
        backend.open(model, SPEC)
    assert all(right(session) for session in sessions)
    sessions.pop().close()
    sessions.append(backend.open(model, SPEC))
    device.limit(before)
    for session in sessions:
        session.close()


def test_the_models_of_a_worker_hold_no_more_than_its_share(
    tmp_path: Path, model: Path, device: EmulatedDevice
) -> None:
    """Together; and closing one makes room for another."""
    with EmulatedTensorRt(threads=1, cache=tmp_path / "cache").open(model, SPEC) as session:
        one = session.device_bytes
        assert one >= device.held["bytes"]
    share = GpuShare(memory_bytes=2 * one + 10)
    backend = EmulatedTensorRt(threads=1, cache=tmp_path / "cache", gpu=share)
    with backend.open(model, SPEC) as session:
        with backend.open(model, SPEC), pytest.raises(DeviceOutOfMemory, match="gpu_memory_bytes"):
            backend.open(model, SPEC)
        with backend.open(model, SPEC):
            assert right(session)


def test_workers_are_spread_over_the_devices(tmp_path: Path, model: Path, device: EmulatedDevice) -> None:
    device.multiply(2)
    names = []
    for worker in range(3):
        backend = EmulatedTensorRt(threads=1, cache=tmp_path / "cache", gpu=GpuShare(worker, 3))
        with backend.open(model, SPEC) as session:
            assert right(session)
        names.append(backend.device().partition(" (")[0])
    assert names == ["Emulated GPU", "Emulated GPU 1", "Emulated GPU"]
    device.multiply(1)


def test_tensorrt_runs_become_one_graph(tmp_path: Path, model: Path, device: EmulatedDevice) -> None:
    """From the third run of a shape on: the warm-up runs it once as it is, then it is captured."""
    backend = EmulatedTensorRtProper(threads=1, cache=tmp_path / "cache")
    with backend.open(model, SPEC) as session:
        before = device.counts["launches"]
        assert right(session, 1) and right(session, 2)
        assert device.counts["launches"] - before == 2


def test_another_shape_gets_a_graph_of_its_own(tmp_path: Path, device: EmulatedDevice) -> None:
    backend = EmulatedTensorRtProper(threads=1, cache=tmp_path / "cache")
    with backend.open(free_axes(tmp_path / "model.onnx"), TILED) as session:
        for size in (64, 16, 16, 33, 64):
            tensor = image(shape=(1, 1, size, 48))
            assert np.abs(run(session, tensor) - two_channels(tensor)).max() < 2e-6
        assert device.counts["graphs"] == 1


def test_what_cannot_be_captured_runs_without(
    tmp_path: Path, model: Path, device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = runtime.ExecutionContext.execute_async_v3

    def refuse(context: runtime.ExecutionContext, stream: int) -> bool:
        return not device.capturing(stream) and execute(context, stream)

    monkeypatch.setattr(runtime.ExecutionContext, "execute_async_v3", refuse)
    backend = EmulatedTensorRtProper(threads=1, cache=tmp_path / "cache")
    with backend.open(model, SPEC) as session:
        assert right(session, 1) and right(session, 2)
    assert device.counts["graphs"] == 0


@pytest.mark.parametrize("number", range(4))
def test_no_memory_at_any_allocation_is_named_and_leaves_nothing(
    number: int, backend: TensorRtBackend, model: Path, device: EmulatedDevice
) -> None:
    """The engine's weights, then input, output and workspace. Afterwards it opens all the same."""
    device.fail_allocation(number, 1 if number == 0 else 2)
    with pytest.raises(DeviceOutOfMemory, match="fit into the GPU's memory") as caught:
        backend.open(model, SPEC)
    assert caught.value.retryable and caught.value.found and caught.value.mend
    assert device.held["bytes"] == device.held["contexts"] == device.held["pinned"] == 0
    with backend.open(model, SPEC) as session:
        assert right(session)


def test_no_pinned_memory_is_named_and_leaves_nothing(
    backend: TensorRtBackend, model: Path, device: EmulatedDevice
) -> None:
    device.fail_allocation(4, 1)
    with pytest.raises(DeviceOutOfMemory):
        backend.open(model, SPEC)


@pytest.fixture
def little_memory(device: EmulatedDevice, request: pytest.FixtureRequest) -> None:
    """Room for a quarter of the largest shape."""
    whole = 64 * 64 * (4 + 8 + runtime.WORKSPACE_PER_VOXEL)
    before = device.limit(whole // 4 + 4096)
    request.addfinalizer(lambda: device.limit(before))


@pytest.mark.usefixtures("little_memory")
def test_with_little_memory_free_axes_run_in_tiles(
    backend: TensorRtBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What looks at single voxels comes out the same; the reason and the size are in the log."""
    with caplog.at_level(logging.WARNING), backend.open(pointwise(tmp_path / "model.onnx"), TILED) as session:
        assert session.variant.endswith(", in tiles of [32, 32]")
        for shape in ((1, 1, 64, 64), (1, 1, 50, 33), (1, 1, 16, 20)):
            tensor = image(shape=shape)
            assert np.allclose(run(session, tensor), np.maximum(tensor, 0), atol=1e-6)
    assert "runs in tiles of [32, 32]" in caplog.text and "MiB needed" in caplog.text


def test_tiles_go_through_together_where_the_batch_axis_is_free(
    backend: TensorRtBackend, tmp_path: Path, device: EmulatedDevice
) -> None:
    """Nine tiles in batches of four: three runs instead of nine."""
    nodes = [helper.make_node("Relu", ["image"], ["probability"])]
    path = write_network(tmp_path / "model.onnx", nodes, shape=("images", 1, "rows", "columns"))
    spec = NetworkSpec(
        "example/only", "image", (4, 1, 64, 64), "probability", "float32", (1, 1, 16, 16), (4, 1, 32, 32)
    )
    before = device.limit(4 * 32 * 32 * (4 + 4 + runtime.WORKSPACE_PER_VOXEL) + 8192)
    with backend.open(path, spec) as session:
        tensor = image(shape=(1, 1, 64, 64))
        copies = device.counts["copies"]
        assert np.allclose(run(session, tensor), np.maximum(tensor, 0), atol=1e-6)
        assert device.counts["copies"] - copies == 2 * 3
    device.limit(before)


@pytest.mark.usefixtures("little_memory")
def test_what_looks_at_neighbours_is_blended(backend: TensorRtBackend, tmp_path: Path) -> None:
    """Where a tile ends the network sees nothing beyond; there the other tiles count far more."""
    tensor = image(shape=(1, 1, 64, 64))
    with backend.open(free_axes(tmp_path / "model.onnx"), TILED) as session:
        off = np.abs(run(session, tensor) - two_channels(tensor))
    assert off.max() < 0.02
    assert np.median(off) < 1e-6


@pytest.mark.usefixtures("little_memory")
def test_one_shape_that_does_not_fit_is_refused_with_the_figures(
    backend: TensorRtBackend, tmp_path: Path, device: EmulatedDevice
) -> None:
    path = free_axes(tmp_path / "model.onnx")
    with pytest.raises(DeviceOutOfMemory, match=r"0\.3 MiB needed, 0\.1 MiB free for it of 0 MiB.*profile"):
        backend.open(path, network_spec((1, 1, 64, 64)))
    assert device.held["bytes"] == 0


def test_labels_are_not_blended_but_refused(backend: TensorRtBackend, tmp_path: Path, device: EmulatedDevice) -> None:
    nodes = [
        helper.make_node("ArgMax", ["image"], ["best"], axis=1, keepdims=1),
        helper.make_node("Cast", ["best"], ["probability"], to=TensorProto.UINT8),
    ]
    path = write_network(tmp_path / "model.onnx", nodes, shape=(1, 1, "rows", "columns"), output_type=TensorProto.UINT8)
    before = device.limit(64 * 64 * 20)
    with pytest.raises(DeviceOutOfMemory, match="MiB needed"):
        backend.open(path, TILED)
    device.limit(before)


def test_a_lost_device_is_named_and_closing_goes_on(
    backend: TensorRtBackend, model: Path, device: EmulatedDevice
) -> None:
    session = backend.open(model, SPEC)
    device.lose()
    with pytest.raises(DeviceLost, match="the GPU failed") as caught:
        run(session, image())
    assert caught.value.mend is not None
    with pytest.raises(DeviceLost):
        run(session, image())
    device.find()  # only so that the fixture finds nothing left
    session.close()


def test_a_device_that_gives_no_context_is_lost(device: EmulatedDevice) -> None:
    device.lose()
    with pytest.raises(DeviceLost):
        CudaThread("a test")
    device.find()


def test_a_run_that_never_ends_is_a_timeout_and_then_a_lost_device(
    backend: TensorRtBackend, model: Path, device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing on a GPU can be broken off: the caller goes on, and the next run shows whether the device does."""
    session = backend.open(model, SPEC)
    hanging = device.hang()
    with pytest.raises(InferenceTimeout):
        run(session, image(), 0.2)
    with pytest.raises(DeviceLost, match="does not come back"):
        run(session, image(), 0.2)
    hanging.release()
    assert right(session)
    session.close()


def test_without_an_engine_the_command_is_named(tmp_path: Path, model: Path) -> None:
    backend = TensorRtBackend(threads=1, cache=tmp_path / "cache", api=double_api())
    with pytest.raises(BackendUnavailable, match=r"no engine of example/only.*none was built.*convert example"):
        backend.open(model, SPEC)


@pytest.mark.parametrize(
    ("change", "found"),
    [("file", "of another network file"), ("version", r"by tensorrt-rtx 11\.0\.0"), ("precision", "in float32")],
)
def test_a_stale_engine_is_named_and_not_used(
    change: str, found: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(model, SPEC, tmp_path / "cache", double_api())
    spec = SPEC
    if change == "file":
        write_one_step(model, "Relu")
    elif change == "version":
        monkeypatch.setattr(runtime.TensorRtDouble, "__version__", "12.0.0")
    else:
        spec = network_spec(precision="float16")
    backend = TensorRtBackend(threads=1, cache=tmp_path / "cache", api=double_api())
    with pytest.raises(BackendUnavailable, match=found):
        backend.open(model, spec)


def test_an_engine_for_other_gpus_is_named(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(model, SPEC, tmp_path / "cache", double_api())
    monkeypatch.setattr("tests.support.cuda.backend.CAPABILITIES", ("8.0", "12.0"))
    backend = TensorRtBackend(threads=1, cache=tmp_path / "cache", api=double_api())
    other = tmp_path / "other.onnx"
    write_one_step(other, "Relu")
    convert(other, SPEC, tmp_path / "cache", double_api())
    with pytest.raises(BackendUnavailable, match=r"compute capability 8\.9, expected one of 8\.0, 12\.0"):
        backend.open(other, SPEC)


def test_an_engine_that_tensorrt_does_not_load_is_named_with_its_words(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, device: EmulatedDevice
) -> None:
    """Right by its SHA-256, and yet nothing that this TensorRT takes."""
    monkeypatch.setattr("tests.support.cuda.backend.MAGIC", b"of another version\n")
    backend = EmulatedTensorRt(threads=1, cache=tmp_path / "cache")
    with pytest.raises(BackendUnavailable, match=r"does not load.*not of this version.*models convert example"):
        backend.open(model, SPEC)


def test_an_engine_of_other_tensors_is_refused(tmp_path: Path, model: Path) -> None:
    backend = EmulatedTensorRt(threads=1, cache=tmp_path / "cache")
    with pytest.raises(ModelPackageError, match="mask"):
        backend.open(model, network_spec(output_tensor="mask"))


def test_compiled_kernels_are_kept_and_used_again_unless_a_bit_has_flipped(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = EmulatedTensorRt(threads=1, cache=tmp_path / "cache")
    taken: list[bytes] = []
    deserialize = runtime.RuntimeCache.deserialize

    def note(cache: runtime.RuntimeCache, blob: bytes) -> bool:
        taken.append(bytes(blob))
        return deserialize(cache, blob)

    monkeypatch.setattr(runtime.RuntimeCache, "deserialize", note)
    for _ in range(2):
        with backend.open(model, SPEC) as session:
            assert right(session)
    assert taken == [b"kernels"]
    (kept,) = (tmp_path / "cache").rglob("runtime.cache")
    content = kept.read_bytes()
    kept.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with backend.open(model, SPEC) as session:
        assert right(session)
    assert taken == [b"kernels"]


def test_it_says_what_it_runs_on(backend: TensorRtBackend) -> None:
    assert backend.device() == "Emulated GPU (compute capability 8.9, 1 multiprocessors, 4096 MiB, CUDA 13.0)"
    assert backend.version().startswith("11.0.0")


_LIVES_ON = """
import sys
from pathlib import Path
import numpy as np
from appliance.errors import DeviceLost
from tests.support.cuda.backend import EmulatedTensorRt
from tests.support.cuda.device import EmulatedDevice
from tests.support.networks import network_spec, write_two_channels

folder, spec = Path(sys.argv[1]), network_spec()
session = EmulatedTensorRt(threads=1, cache=folder / "cache").open(write_two_channels(folder / "m.onnx"), spec)
EmulatedDevice().lose()
try:
    session.run(np.zeros(spec.input_shape, np.float32), time_limit_s=60)
except DeviceLost:
    session.close()
    print("lives on")
"""


def test_a_process_survives_its_device(tmp_path: Path) -> None:
    """So that the next backend can serve. pycuda aborts a process whose thread ends with a context."""
    done = subprocess.run(
        [sys.executable, "-c", _LIVES_ON, str(tmp_path)], capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, "lives on\n"), done.stderr
