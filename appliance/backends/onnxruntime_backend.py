"""ONNX Runtime on the CPU: runs everything, everywhere."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from appliance.backends.base import Backend, NetworkSpec, Session, check_tensors, wrong_element_type
from appliance.backends.time_limit import TimeLimit
from appliance.errors import InferenceFailed, ModelPackageError
from appliance.manifest.manifest import Precision

_ERRORS = (
    state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile,
    state.NotImplemented, state.RuntimeException, state.EPFail, state.NoModel, state.ModelLoaded,
)  # fmt: skip
_QUIET = 4  # only fatal messages: the errors come as exceptions


class OnnxRuntimeBackend(Backend):
    """See ``Backend``. Runs what a network says, in float32 or int8, whatever the CPU has."""

    name = "onnxruntime"

    @classmethod
    def unavailable(cls, precision: Precision) -> str | None:
        """See ``Backend``."""
        return None if precision in ("float32", "int8") else f"onnxruntime on the CPU does not run {precision}"

    def version(self) -> str:
        """See ``Backend``."""
        return str(onnxruntime.__version__)

    def _open(self, model: Path, spec: NetworkSpec) -> Session:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        # Idle threads of a worker that waits for a job must not burn the cores that reception needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except _ERRORS as error:
            raise ModelPackageError(
                f"{model.name} is not a network that ONNX Runtime can load",
                found=str(error).splitlines()[0],
                mend="Fetch the weights again: appliance models fetch",
            ) from error
        check_tensors(
            model,
            spec,
            {entry.name: tuple(entry.shape) for entry in session.get_inputs()},
            {entry.name: None for entry in session.get_outputs()},
        )
        element_type = session.get_inputs()[0].type
        if element_type != "tensor(float)":
            raise wrong_element_type(model, element_type)
        return _OnnxRuntimeSession(spec, session)


class _OnnxRuntimeSession(Session):
    def __init__(self, spec: NetworkSpec, session: Any) -> None:
        super().__init__(spec)
        self._session = session
        self._limit = TimeLimit()

    def _run(self, tensor: NDArray[np.float32], time_limit_s: float) -> NDArray[Any]:
        options = onnxruntime.RunOptions()
        options.log_severity_level = _QUIET
        over = threading.Event()

        def break_off() -> None:
            over.set()
            options.terminate = True

        try:
            with self._limit.running(time_limit_s, break_off):
                (output,) = self._session.run([self.spec.output_tensor], {self.spec.input_tensor: tensor}, options)
        except _ERRORS as error:
            if over.is_set():
                raise self.timed_out(time_limit_s) from error
            raise InferenceFailed(
                f"ONNX Runtime could not run {self.spec.name}", found=str(error).splitlines()[0]
            ) from error
        return np.asarray(output)

    def run_bare(self, tensor: NDArray[np.float32]) -> NDArray[Any]:
        (output,) = self._session.run([self.spec.output_tensor], {self.spec.input_tensor: tensor})
        return np.asarray(output)

    def close(self) -> None:
        self._limit.close()
        self._session = None
