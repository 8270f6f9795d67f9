"""One contract for every inference backend in the table: the same networks, numbers and errors."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from appliance.backends import table
from appliance.backends.base import Backend, NetworkSpec, Session
from appliance.backends.table import BACKENDS, backend_class, choose
from appliance.errors import BackendUnavailable, InferenceFailed, InferenceTimeout, ModelPackageError
from appliance.graphs.precision import reduce_precision
from appliance.manifest.manifest import BackendName, Precision
from tests.support.networks import (
    network_spec,
    two_channels,
    write_network,
    write_one_step,
    write_slow,
    write_two_channels,
)

NETWORK = network_spec()
SLOW_SIZE, SLOW_LAYERS = 64, 24


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Each backend that can run here."""
    try:
        found = backend_class(request.param)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    reason = found.unavailable("float32")
    if reason is not None:
        pytest.skip(reason)
    return found(threads=1, cache=tmp_path / "cache")


def image(seed: int = 1, shape: tuple[int, ...] = NETWORK.input_shape) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(session: Session, tensor: NDArray[np.float32], time_limit_s: float = 60.0) -> NDArray[Any]:
    return session.run(tensor, time_limit_s=time_limit_s)


def test_its_name_is_that_of_the_table_and_it_knows_its_version(backend: Backend) -> None:
    assert BACKENDS[backend.name].endswith(f":{type(backend).__name__}")  # type: ignore[index]
    assert backend.version()[0].isdigit()


def test_numbers_are_right(backend: Backend, tmp_path: Path) -> None:
    """In float32, against the definition in float64: bfloat16 that crept in would be a hundred times as far off."""
    with backend.open(write_two_channels(tmp_path / "model.onnx"), NETWORK) as session:
        tensor = image()
        output = run(session, tensor)
    assert output.dtype == np.float32
    assert output.shape == (1, 2, 8, 6)
    assert np.abs(output - two_channels(tensor)).max() < 2e-6


def test_free_axes_take_the_shape_of_the_manifest(backend: Backend, tmp_path: Path) -> None:
    path = write_two_channels(tmp_path / "model.onnx", ("batch", 1, "rows", "columns"))
    with backend.open(path, network_spec((1, 1, 5, 9))) as session:
        tensor = image(shape=(1, 1, 5, 9))
        assert np.abs(run(session, tensor) - two_channels(tensor)).max() < 2e-6


def test_a_profile_takes_every_shape_within_it_and_no_other(backend: Backend, tmp_path: Path) -> None:
    """An output of one shape stays as it was when another shape is run after it."""
    path = write_two_channels(tmp_path / "model.onnx", ("batch", 1, "rows", "columns"))
    with backend.open(path, network_spec((1, 1, 16, 12), min_shape=(1, 1, 5, 4))) as session:
        outputs = []
        for shape in [(1, 1, 5, 4), (1, 1, 16, 12), (1, 1, 8, 6), (1, 1, 5, 4)]:
            tensor = image(shape=shape)
            outputs.append((run(session, tensor), two_channels(tensor)))
        for output, expected in outputs:
            assert output.shape == expected.shape
            assert np.abs(output - expected).max() < 2e-6
        with pytest.raises(ValueError, match="takes contiguous float32"):
            run(session, image(shape=(1, 1, 17, 12)))


def test_labels_stay_whole_numbers(backend: Backend, tmp_path: Path) -> None:
    """A byte for each sample: as float32 a label map would take four."""
    nodes = [helper.make_node("Greater", ["x", "zero"], ["above"]),
             helper.make_node("Cast", ["above"], ["y"], to=TensorProto.UINT8)]  # fmt: skip
    shape = [1, 1, 5, 9]
    graph = helper.make_graph(
        nodes, "labels",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, shape)],
        [helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])],
    )  # fmt: skip
    path = tmp_path / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    with backend.open(path, network_spec((1, 1, 5, 9), input_tensor="x", output_tensor="y")) as session:
        tensor = image(shape=(1, 1, 5, 9))
        labels = run(session, tensor)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, tensor > 0)


def test_a_bare_run_gives_the_same_and_disturbs_nothing(backend: Backend, tmp_path: Path) -> None:
    with backend.open(write_two_channels(tmp_path / "model.onnx"), NETWORK) as session:
        first = run(session, image(1))
        kept = first.copy()
        assert np.array_equal(session.run_bare(image(2)), run(session, image(2)))
    assert np.array_equal(first, kept)


def test_the_output_is_the_callers_own(backend: Backend, tmp_path: Path) -> None:
    """A later run, and closing, leave what an earlier run returned as it was; and it may be written to."""
    with backend.open(write_two_channels(tmp_path / "model.onnx"), NETWORK) as session:
        first = run(session, image(1))
        kept = first.copy()
        second = run(session, image(2))
        assert not np.array_equal(first, second)
    assert np.array_equal(first, kept)
    first[...] = 0
    assert second.all()


def test_a_part_of_an_output_stays_as_it_was_too(backend: Backend, tmp_path: Path) -> None:
    """A backend that uses memory again must see that a caller still holds a view of a view of it."""
    with backend.open(write_two_channels(tmp_path / "model.onnx"), NETWORK) as session:
        parts = [run(session, image(1))[0][1].T, memoryview(run(session, image(2))[0, 0])]
        kept = [np.array(part) for part in parts]
        for seed in range(3, 8):
            run(session, image(seed))
    for part, before in zip(parts, kept, strict=True):
        assert np.array_equal(part, before)


def test_the_input_is_only_read(backend: Backend, tmp_path: Path) -> None:
    """An array that cannot be written to, as images are, does as well; the first layer works in place if it can."""
    with backend.open(write_one_step(tmp_path / "model.onnx", "Relu"), NETWORK) as session:
        tensor = image()
        kept = tensor.copy()
        tensor.flags.writeable = False
        output = run(session, tensor)
    assert np.array_equal(tensor, kept)
    assert np.array_equal(output, np.maximum(kept, 0))


def test_the_time_of_a_run_is_kept(backend: Backend, tmp_path: Path) -> None:
    with backend.open(write_two_channels(tmp_path / "model.onnx"), NETWORK) as session:
        session.seconds = 0.0
        run(session, image())
        assert session.seconds > 0


@pytest.mark.parametrize(
    "tensor",
    [
        image().astype(np.float64),
        image(shape=(1, 1, 6, 8)),
        image(shape=(1, 8, 6)),
        np.asfortranarray(image()),
        image(shape=(1, 1, 8, 12))[..., ::2],
    ],
    ids=["float64", "other-shape", "fewer-axes", "fortran", "strided"],
)
def test_a_wrong_array_is_the_callers_defect(backend: Backend, tensor: NDArray[np.float32], tmp_path: Path) -> None:
    with (
        backend.open(write_two_channels(tmp_path / "model.onnx"), NETWORK) as session,
        pytest.raises(ValueError, match="takes contiguous float32"),
    ):
        run(session, tensor)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (network_spec(input_tensor="volume"), "image"),
        (network_spec(output_tensor="logits"), "probability"),
        (network_spec((1, 1, 6, 8)), r"\[1, 1, 8, 6\]"),
        (network_spec((1, 1, 8, 6, 4)), r"\[1, 1, 8, 6\]"),
    ],
    ids=["input-name", "output-name", "size", "number-of-axes"],
)
def test_a_network_that_is_not_as_the_manifest_says_is_refused(
    backend: Backend, spec: NetworkSpec, found: str, tmp_path: Path
) -> None:
    """The message says what the network has."""
    with pytest.raises(ModelPackageError, match=found) as caught:
        backend.open(write_two_channels(tmp_path / "model.onnx"), spec)
    assert caught.value.mend is not None


def test_a_second_input_is_refused(backend: Backend, tmp_path: Path) -> None:
    node = helper.make_node("Add", ["image", "prior"], ["probability"])
    path = write_network(tmp_path / "model.onnx", [node], more_inputs=["prior"])
    with pytest.raises(ModelPackageError, match="prior"):
        backend.open(path, NETWORK)


def test_a_network_of_other_numbers_is_refused(backend: Backend, tmp_path: Path) -> None:
    """It takes float64; the appliance gives float32. Trying again cannot help."""
    node = helper.make_node("Neg", ["image"], ["probability"])
    path = write_network(tmp_path / "model.onnx", [node], input_type=TensorProto.DOUBLE, output_type=TensorProto.DOUBLE)
    with pytest.raises(ModelPackageError, match="expected float32"):
        backend.open(path, NETWORK)


def test_an_output_that_is_no_image_is_refused(backend: Backend, tmp_path: Path) -> None:
    path = write_network(
        tmp_path / "model.onnx", [helper.make_node("ReduceMax", ["image"], ["probability"], keepdims=0)]
    )
    with pytest.raises(ModelPackageError, match="batch, channel"):
        backend.open(path, NETWORK)


@pytest.mark.parametrize("damage", ["truncated", "noise", "empty", "missing"])
def test_a_damaged_file_is_refused(backend: Backend, damage: str, tmp_path: Path) -> None:
    path = write_two_channels(tmp_path / "model.onnx")
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": whole[: len(whole) // 2], "noise": b"\x13\x37" * 500, "empty": b""}[damage])
    with pytest.raises(ModelPackageError, match=r"model\.onnx") as caught:
        backend.open(path, NETWORK)
    assert "\n" not in str(caught.value)


def test_values_that_are_not_finite_are_a_failure(backend: Backend, tmp_path: Path) -> None:
    """And the session goes on: the next image may be fine."""
    with backend.open(write_one_step(tmp_path / "model.onnx", "Sqrt"), NETWORK) as session:
        with pytest.raises(InferenceFailed, match="not finite"):
            run(session, -np.ones(NETWORK.input_shape, np.float32))
        assert run(session, np.full(NETWORK.input_shape, 4, np.float32)).max() == pytest.approx(2)


def test_a_network_that_cannot_run_once_is_not_opened(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(InferenceFailed, match="not finite"):
        backend.open(write_one_step(tmp_path / "model.onnx", "Log"), NETWORK)


def test_the_time_limit_interrupts(backend: Backend, tmp_path: Path) -> None:
    """Not after the run, but in its midst; and the session still works."""
    shape = (1, 1, SLOW_SIZE, SLOW_SIZE, SLOW_SIZE)
    with backend.open(write_slow(tmp_path / "model.onnx", SLOW_SIZE, SLOW_LAYERS), network_spec(shape)) as session:
        tensor = image(shape=shape)
        whole = run(session, tensor)
        whole_s = session.seconds
        started = time.monotonic()
        with pytest.raises(InferenceTimeout, match="too long"):
            run(session, tensor, whole_s / 10)
        assert time.monotonic() - started < 0.7 * whole_s
        assert np.array_equal(run(session, tensor), whole)


@pytest.mark.parametrize("time_limit_s", [0.0, -0.5, -120.0])
def test_no_time_left_is_a_timeout(backend: Backend, time_limit_s: float, tmp_path: Path) -> None:
    """What the stages before it leave of the limit of the manifest may be nothing."""
    with backend.open(write_two_channels(tmp_path / "model.onnx"), NETWORK) as session:
        with pytest.raises(InferenceTimeout):
            run(session, image(), time_limit_s)
        assert run(session, image()).shape == (1, 2, 8, 6)


def test_two_sessions_do_not_disturb_each_other(backend: Backend, tmp_path: Path) -> None:
    path = write_two_channels(tmp_path / "model.onnx")
    with backend.open(path, NETWORK) as other:
        with backend.open(path, NETWORK) as session:
            run(session, image(2))
        assert np.abs(run(other, image(1)) - two_channels(image(1))).max() < 2e-6


def test_the_cache_may_vanish(backend: Backend, tmp_path: Path) -> None:
    """What was compiled is used again, and made anew where someone emptied the folder."""
    path = write_two_channels(tmp_path / "model.onnx")
    for _ in range(2):
        with backend.open(path, NETWORK) as session:
            assert np.abs(run(session, image()) - two_channels(image())).max() < 2e-6
    for file in (tmp_path / "cache").rglob("*"):
        if file.is_file():
            file.unlink()
    with backend.open(path, NETWORK) as session:
        assert np.abs(run(session, image()) - two_channels(image())).max() < 2e-6


def test_a_damaged_cache_changes_no_number(backend: Backend, tmp_path: Path) -> None:
    """Weights are checked by their SHA-256 before they are opened: nothing else may stand in for them unchecked."""
    shape = (1, 1, 16, 16, 16)
    path = write_slow(tmp_path / "model.onnx", 16, 4)
    with backend.open(path, network_spec(shape)) as session:
        right = run(session, image(shape=shape))
    for file in [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]:
        whole = file.read_bytes()
        for position in range(len(whole) // 24, len(whole), len(whole) // 12 + 1):
            # One bit at a time: a file that is damaged all over is noticed more easily.
            file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
            with backend.open(path, network_spec(shape)) as session:
                assert np.array_equal(run(session, image(shape=shape)), right)


def test_a_session_may_be_used_in_another_thread_than_it_was_opened_in(backend: Backend, tmp_path: Path) -> None:
    with (
        backend.open(write_two_channels(tmp_path / "model.onnx"), NETWORK) as session,
        ThreadPoolExecutor(1) as thread,
    ):
        output = thread.submit(run, session, image()).result(60)
    assert np.abs(output - two_channels(image())).max() < 2e-6


def test_closing_frees_the_memory(backend: Backend, tmp_path: Path) -> None:
    """Each session here needs more than 16 MB for two layers alone; a dozen of them must not add up."""
    shape = (1, 1, 64, 64, 64)
    path = write_slow(tmp_path / "model.onnx", 64, 2)
    process = psutil.Process()
    used = []
    for _ in range(12):
        with backend.open(path, network_spec(shape)):
            pass
        used.append(process.memory_info().rss)
    assert used[-1] - used[3] < 64 * 2**20


@pytest.mark.parametrize("name", BACKENDS)
def test_bfloat16_is_used_where_it_was_asked_for_or_refused_with_the_reason(name: BackendName, tmp_path: Path) -> None:
    """Never the one instead of the other: it shows in the numbers."""
    try:
        found = backend_class(name)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    absent = found.unavailable("float32")
    if absent is not None:
        pytest.skip(absent)
    reason = found.unavailable("bfloat16")
    if reason is not None:
        assert name in reason and "bfloat16" in reason
        return
    shape = (1, 1, 16, 16, 16)
    path = write_slow(tmp_path / "model.onnx", 16, 4)
    outputs = {}
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        if precision in found.rewritten:
            # Rounded where it would be, and kept in float32: so a runtime without bfloat16 computes the same.
            onnx.save(reduce_precision(onnx.load(path), "bfloat16", emulate=True), path)
        with found(threads=1, cache=tmp_path / "cache").open(path, network_spec(shape, precision=precision)) as session:
            outputs[precision] = run(session, image(shape=shape))
    scale = np.abs(outputs["float32"]).max()
    off = np.abs(outputs["bfloat16"] - outputs["float32"]).max() / scale
    assert 1e-5 < off < 0.05


class _Fake(Backend):
    """A backend that is never opened."""

    name = "fake"
    reason: str | None = None

    @classmethod
    def unavailable(cls, precision: Precision) -> str | None:
        return cls.reason

    def version(self) -> str:
        return "1"

    def _open(self, model: Path, spec: NetworkSpec) -> Session:
        raise NotImplementedError


class _Unable(_Fake):
    reason = "unable: this machine has no device for it"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"missing": "no_such_runtime:X", "unable": f"{__name__}:_Unable", "able": f"{__name__}:_Fake"}
    monkeypatch.setattr(table, "BACKENDS", entries)


@pytest.mark.usefixtures("fakes")
def test_the_first_that_can_run_is_chosen(tmp_path: Path) -> None:
    chosen = choose(["missing", "unable", "able"], "float32", threads=3, cache=tmp_path)  # type: ignore[list-item]
    assert type(chosen) is _Fake
    assert (chosen.threads, chosen.cache) == (3, tmp_path)


@pytest.mark.usefixtures("fakes")
def test_where_none_can_run_every_reason_is_named(tmp_path: Path) -> None:
    """The one that is not installed with the command that installs it."""
    with pytest.raises(BackendUnavailable) as caught:
        choose(["missing", "unable"], "float32", threads=1, cache=tmp_path)  # type: ignore[list-item]
    message = str(caught.value)
    assert "missing is not installed" in message
    assert "pip install" in message
    assert "no device for it" in message
