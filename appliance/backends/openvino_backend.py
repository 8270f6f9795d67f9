"""OpenVINO on the CPU: 1.4 to 3 times as fast as ONNX Runtime on three-dimensional networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from appliance.backends.base import Backend, NetworkSpec, Session, check_tensors, wrong_element_type
from appliance.errors import InferenceFailed, ModelPackageError
from appliance.manifest.manifest import Precision


class OpenVinoBackend(Backend):
    """See ``Backend``.

    The precision is always set: left to itself, the latency hint silently computes in bfloat16 on CPUs that have it.

    A run that takes too long ends after the operator that is running; a network that is one long ``Loop`` runs on.

    OpenVINO's own model cache stays off. It keeps a copy of the weights that it loads back unchecked: one flipped bit
    there changes the numbers and no error says so, however right the SHA-256 of the network's file is. Without it, a
    network compiles in half a second to a second, once per start.
    """

    name = "openvino"
    rewritten = frozenset({"int8"})

    @classmethod
    def unavailable(cls, precision: Precision) -> str | None:
        """See ``Backend``."""
        if precision in ("float32", "int8"):
            return None
        if precision != "bfloat16":
            return f"openvino does not run {precision}"
        capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return None if "BF16" in capabilities else "openvino: this CPU has no bfloat16 instructions"

    def version(self) -> str:
        """See ``Backend``."""
        return str(openvino.__version__).split("-")[0]

    def _open(self, model: Path, spec: NetworkSpec) -> Session:
        core = openvino.Core()
        properties: dict[str, Any] = {
            # What an int8 network leaves in float32 stays in it.
            "INFERENCE_PRECISION_HINT": "bf16" if spec.precision == "bfloat16" else "f32",
            "EXECUTION_MODE_HINT": "PERFORMANCE" if spec.precision == "bfloat16" else "ACCURACY",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self.threads:
            properties["INFERENCE_NUM_THREADS"] = self.threads
        try:
            network = core.read_model(str(model))
            check_tensors(
                model,
                spec,
                {
                    entry.get_any_name(): tuple(
                        axis.get_length() if axis.is_static else None for axis in entry.get_partial_shape()
                    )
                    for entry in network.inputs
                },
                {name: None for entry in network.outputs for name in entry.get_names()},
            )
            element_type = network.inputs[0].get_element_type().get_type_name()
            if element_type != "f32":
                raise wrong_element_type(model, element_type)
            axes = zip(spec.min_shape or spec.input_shape, spec.input_shape, strict=True)
            network.reshape({spec.input_tensor: openvino.PartialShape([openvino.Dimension(*axis) for axis in axes])})
            compiled = core.compile_model(network, "CPU", properties)
        except RuntimeError as error:
            raise ModelPackageError(
                f"{model.name} is not a network that OpenVINO can load",
                found=" ".join(str(error).split())[:300],
                mend="Fetch the weights again: appliance models fetch; or let another backend run it",
            ) from error
        return _OpenVinoSession(spec, compiled)


class _OpenVinoSession(Session):
    def __init__(self, spec: NetworkSpec, compiled: Any) -> None:
        super().__init__(spec)
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._bare: Any = None
        self._memory: _FixedOutput | None = None
        self._output = compiled.output(spec.output_tensor)
        shape = self._output.get_partial_shape()
        self._only_shape = tuple(shape.to_shape()) if shape.is_static else None
        self._shapes: dict[tuple[int, ...], tuple[int, ...]] = {}  # of each input so far → of its output

    def _run(self, tensor: NDArray[np.float32], time_limit_s: float) -> NDArray[Any]:
        output = self._free_output(tensor.shape)
        try:
            self._request.set_tensor(self._output, output.tensor)
            self._request.start_async({self.spec.input_tensor: tensor}, share_inputs=True)
            if not self._request.wait_for(int(time_limit_s * 1000)):
                self._request.cancel()
                try:
                    self._request.wait()
                except RuntimeError:
                    pass  # it says that it was cancelled
                raise self.timed_out(time_limit_s)
            array = output.array()
            self._shapes[tensor.shape] = array.shape
            return array
        except RuntimeError as error:
            raise InferenceFailed(
                f"OpenVINO could not run {self.spec.name}", found=" ".join(str(error).split())[:300]
            ) from error

    def _free_output(self, input_shape: tuple[int, ...]) -> _FixedOutput | _FreeOutput:
        """Memory for an output that no caller uses: nothing is copied, and nothing that was returned is written to."""
        element_type = self._output.get_element_type()
        shape = self._only_shape or self._shapes.get(input_shape)
        if shape is None:  # the first run with an input of this shape tells
            return _FreeOutput(element_type, self._output.get_partial_shape().rank.get_length())
        if self._memory is None or self._memory.shape != shape or self._memory.in_use:
            self._memory = None
            self._memory = _FixedOutput(shape, element_type.to_dtype())
        return self._memory

    def run_bare(self, tensor: NDArray[np.float32]) -> NDArray[Any]:
        if self._bare is None:
            self._bare = self._compiled.create_infer_request()  # the other one writes into memory of callers
        results = self._bare.infer({self.spec.input_tensor: tensor}, share_inputs=True, share_outputs=True)
        return np.asarray(results[self._output])

    def close(self) -> None:
        self._request = self._bare = self._compiled = self._output = self._memory = None


class _FixedOutput:
    """Memory for outputs of one shape, to be used again once the last caller has let go of it.

    Memory that is new has to be touched page by page, which takes as long as a twentieth of a run.
    """

    def __init__(self, shape: tuple[int, ...], element_type: np.dtype[Any]) -> None:
        self.shape = shape
        self._array = np.empty(shape, element_type)
        self.tensor = openvino.Tensor(self._array, shared_memory=True)
        self._idle = self._references()

    def array(self) -> NDArray[Any]:
        """The output, for a caller to keep. Every view of it, however it is made, refers to the array behind it."""
        return self._array.view()

    @property
    def in_use(self) -> bool:
        """Whether a caller still has the output, or a view of it."""
        return self._references() > self._idle

    def _references(self) -> int:
        return sys.getrefcount(self._array)


class _FreeOutput:
    """Memory for one output whose shape is not known yet: it gets its size in the run."""

    def __init__(self, element_type: Any, axes: int) -> None:
        self.tensor = openvino.Tensor(element_type, [0] * axes)

    def array(self) -> NDArray[Any]:
        """The output, the caller's own."""
        return np.asarray(self.tensor.data)
