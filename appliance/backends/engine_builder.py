"""An ONNX file → a TensorRT engine: parsed, compared with the manifest, built within limits.

Networks are strongly typed: the precision is that of the ONNX graph, no flag changes it. It takes seconds to minutes
and all the memory that it is given, so it never runs in a process that serves.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from appliance.backends.apart import die_with_parent
from appliance.backends.base import NetworkSpec, check_tensors
from appliance.backends.tensorrt_api import TensorRtApi, find_tensorrt, quiet_logger
from appliance.errors import ApplianceError, InferenceTimeout, ModelPackageError
from appliance.spool.durable import write_durably

Progress = Callable[[str], None]
"""Called with one line about what is being done."""

CAPABILITIES: tuple[str, ...] = ("7.5", "8.0", "8.6", "8.9", "12.0")
"""Compute capabilities that an ahead-of-time engine is built for: Turing to Blackwell."""


_CANCEL_GRACE_S = 5.0
_MORE_TIME = "Give it a longer limit (--time-limit)"


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """A serialized engine, and how it came about.

    Attributes
    ----------
    capabilities
        Those that it was built for; empty when it is for the GPU of this machine alone.
    tensors
        Name → shape of each output, and ``[min, typical, max]`` shapes of each input, as the builder has them; a free
        axis of an output is ``None``.
    left_out
        Capability → why the network cannot run there.
    log
        What the builder said, warnings and errors.
    """

    plan: bytes
    seconds: float
    layers: int
    capabilities: tuple[str, ...]
    tensors: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    log: tuple[str, ...] = ()


def build_engine(
    model: Path,
    spec: NetworkSpec,
    api: TensorRtApi,
    *,
    time_limit_s: float,
    memory_limit_bytes: int,
    progress: Progress,
    timing_cache: Path | None = None,
) -> BuiltEngine:
    """Build an engine, in a process of its own.

    Parameters
    ----------
    memory_limit_bytes
        Of the builder's workspace on the device.
    timing_cache
        File in which the times of kernels on this device are kept from one build to the next; ahead of time nothing
        is timed.

    Raises
    ------
    ModelPackageError
        The file is damaged, has an operator that TensorRT lacks (named with its node), is not what the manifest
        says, or cannot be built; the builder's own words are in the message.
    InferenceTimeout
        It took longer than ``time_limit_s``.
    """
    started = time.monotonic()
    deadline = started + time_limit_s
    wanted = CAPABILITIES if api.ahead_of_time else ()
    left_out: dict[str, str] = {}
    while True:
        attempt = _Attempt(model, spec, wanted, deadline, memory_limit_bytes, timing_cache)
        outcome = _run_apart(attempt, deadline, progress)
        if outcome.plan is not None:
            seconds = time.monotonic() - started
            log = tuple(outcome.messages)
            return BuiltEngine(outcome.plan, seconds, outcome.layers, wanted, outcome.tensors, left_out, log)
        # The builder refuses the whole set when one generation lacks a kernel, Turing for three-dimensional float32
        # convolutions: the others are built without it, and the reason is kept.
        if len(wanted) < 2 or not any(_names(message, wanted[0]) for message in outcome.messages):
            raise ModelPackageError(
                f"TensorRT cannot build {spec.name}",
                found=outcome.messages[-1] if outcome.messages else "no message",
                mend="Let the CPU backends run it, or change the network",
            )
        left_out[wanted[0]] = outcome.messages[-1]
        progress(f"    not for compute capability {wanted[0]}: {outcome.messages[-1][:160]}")
        wanted = wanted[1:]


def _names(message: str, capability: str) -> bool:
    """Whether a refusal is about one generation; the builder writes its name now so (SM75), now so (sm75)."""
    return f"sm{capability.replace('.', '')}" in message.lower()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Of one run of the builder; ``plan`` is ``None`` when it refused the network."""

    plan: bytes | None
    layers: int
    tensors: dict[str, Any]
    messages: list[str]


def _run_apart(attempt: _Attempt, deadline: float, progress: Progress) -> _Outcome:
    """Run the builder in a fresh process.

    A crash in native code is then an error like any other. And what TensorRT-RTX 1.7 builds after a build that it has
    refused, in the same process, is ten times too large.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_in_child, args=(attempt, sender), daemon=True)
    process.start()
    sender.close()
    try:
        # The monitor cancels at the deadline; a builder that does not listen to it is ended a little later.
        while receiver.poll(max(0.0, deadline - time.monotonic()) + _CANCEL_GRACE_S):
            said = receiver.recv()
            if isinstance(said, str):
                progress(said)
            elif isinstance(said, _Outcome):
                return said
            else:
                raise said
        raise InferenceTimeout(f"the engine of {attempt.spec.name} was not built in time", mend=_MORE_TIME)
    except EOFError as error:
        process.join()
        raise ModelPackageError(
            f"the builder of {attempt.spec.name} ended without an answer",
            found=f"exit code {process.exitcode}",
            mend="Look at the memory of this machine; the CPU backends can run the model meanwhile",
        ) from error
    finally:
        process.kill()
        process.join()
        receiver.close()


def _in_child(attempt: _Attempt, connection: Connection) -> None:
    die_with_parent()
    try:
        connection.send(attempt.run(connection.send))
    except ApplianceError as error:
        connection.send(error)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One run of the builder, as the process that does it gets it."""

    model: Path
    spec: NetworkSpec
    capabilities: Sequence[str]
    deadline: float  # by time.monotonic, which all processes of a machine share
    memory_limit_bytes: int
    timing_cache: Path | None

    def run(self, progress: Progress) -> _Outcome:
        """Build; the plan is ``None`` when the builder refuses the network."""
        trt = find_tensorrt().module
        messages: list[str] = []
        logger = quiet_logger(trt, messages)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(self.model)):
            raise self._parse_error(parser)
        check_tensors(
            self.model,
            self.spec,
            {entry.name: _shape(entry) for entry in _entries(network.num_inputs, network.get_input)},
            {entry.name: None for entry in _entries(network.num_outputs, network.get_output)},
        )
        config = self._configure(trt, builder)
        tensors = self._profile(builder, network, config)
        config.progress_monitor = monitor = _monitor(trt, self.deadline, progress)
        plan = builder.build_serialized_network(network, config)
        del monitor  # TensorRT does not hold it; it had to live until here
        if plan is None and time.monotonic() > self.deadline:
            raise InferenceTimeout(f"the engine of {self.spec.name} was not built in time", mend=_MORE_TIME)
        if plan is not None and self.timing_cache is not None:
            write_durably(self.timing_cache, bytes(config.get_timing_cache().serialize()))
        return _Outcome(None if plan is None else bytes(plan), int(network.num_layers), tensors, messages)

    def _configure(self, trt: Any, builder: Any) -> Any:
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.memory_limit_bytes)
        # On by default: convolutions in float32 would keep 10 of its 23 bits.
        config.clear_flag(trt.BuilderFlag.TF32)
        if self.capabilities:
            config.num_compute_capabilities = len(self.capabilities)
            for index, capability in enumerate(self.capabilities):
                config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), index)
        if self.timing_cache is not None:
            try:
                known = self.timing_cache.read_bytes()
            except FileNotFoundError:
                known = b""
            # Of another device or version it is refused, and times are taken anew.
            if not config.set_timing_cache(config.create_timing_cache(known), False):
                config.set_timing_cache(config.create_timing_cache(b""), False)
        return config

    def _profile(self, builder: Any, network: Any, config: Any) -> dict[str, Any]:
        """Give each input with free axes its shapes; return the shapes of all tensors as the builder has them."""
        tensors: dict[str, Any] = {
            entry.name: list(_shape(entry)) for entry in _entries(network.num_outputs, network.get_output)
        }
        for entry in _entries(network.num_inputs, network.get_input):
            if -1 in tuple(entry.shape):
                profile = builder.create_optimization_profile()
                most = self.spec.input_shape
                profile.set_shape(entry.name, self.spec.min_shape or most, self.spec.warm_up_shape, most)
                config.add_optimization_profile(profile)
                tensors[entry.name] = [list(shape) for shape in profile.get_shape(entry.name)]
            else:
                tensors[entry.name] = [list(entry.shape)] * 3
        return tensors

    def _parse_error(self, parser: Any) -> ModelPackageError:
        missing = _missing_data(self.model)
        if missing:
            return ModelPackageError(
                f"{self.model.name} is not whole",
                found=f"no {', '.join(missing)}",
                expected="the files that hold its weights, beside it",
                mend="Bring them too, or save the network as one file",
            )
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        found = [
            f"node {error.node_name() or error.node()} ({error.node_operator() or 'no operator'}): {error.desc()}"
            for error in errors
        ]
        return ModelPackageError(
            f"TensorRT cannot read {self.model.name}",
            found="; ".join(found)[:600] or "no message",
            mend="Express the operator by others in the ONNX file, or let the CPU backends run it; if the file is "
            "damaged, fetch it again",
        )


def _missing_data(model: Path) -> list[str]:
    """Names of the files with weights that an ONNX file refers to and that are not beside it.

    TensorRT itself says of them that a node -1 is not supported.
    """
    try:
        network = onnx.load(model, load_external_data=False)
    except DecodeError:
        return []
    places = {
        entry.value for tensor in network.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    return sorted(place for place in places if not (model.parent / place).is_file())


def _entries(count: int, get: Callable[[int], Any]) -> list[Any]:
    return [get(index) for index in range(count)]


def _shape(entry: Any) -> tuple[int | None, ...]:
    return tuple(None if size < 0 else int(size) for size in entry.shape)


def _monitor(trt: Any, deadline: float, progress: Progress) -> Any:
    """Shows the outermost phases, and cancels the build at the deadline."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None or parent_phase == "Building engine":
                progress(f"    {phase_name.lower()}")

        def step_complete(self, phase_name: str, step: int) -> bool:
            return time.monotonic() < deadline

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()
