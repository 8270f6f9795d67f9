"""What an inference backend is: it opens a network, and the session it returns runs it.

The base classes check, the children run. Whoever passes an array in keeps owning it; the array that comes back
belongs to the caller and is never written to again.
"""

from __future__ import annotations

import functools
import platform
import re
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from appliance.backends.gpu_share import WHOLE_GPU, GpuShare
from appliance.errors import InferenceFailed, InferenceTimeout, ModelPackageError
from appliance.manifest.manifest import Precision


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """What the manifest says about one network: the tensors that it takes and gives.

    Attributes
    ----------
    input_shape
        The one shape that it takes; the largest, when ``min_shape`` is given.
    min_shape, typical_shape
        Smallest shape of a network with free axes, and the one that it is tuned for; ``None`` when there is one shape.
    """

    name: str
    input_tensor: str
    input_shape: tuple[int, ...]
    output_tensor: str
    precision: Precision
    min_shape: tuple[int, ...] | None = None
    typical_shape: tuple[int, ...] | None = None

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether the network takes a tensor of this shape."""
        least = self.min_shape or self.input_shape
        return len(shape) == len(least) and all(
            low <= size <= high for low, size, high in zip(least, shape, self.input_shape, strict=True)
        )

    @property
    def warm_up_shape(self) -> tuple[int, ...]:
        """The shape that the network is warmed with."""
        return self.typical_shape or self.input_shape


class Session(ABC):
    """A network, loaded and ready; used by one thread at a time.

    Attributes
    ----------
    seconds
        How long the last run took, in seconds.
    variant
        What may change a number beside network, backend and device: which engine, whether in tiles.
    device_bytes
        Memory of a GPU that it holds.
    """

    variant: str = ""
    device_bytes: int = 0

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec
        self.seconds = 0.0

    @final
    def run(self, tensor: NDArray[np.float32], *, time_limit_s: float) -> NDArray[Any]:
        """Run the network.

        Parameters
        ----------
        tensor
            float32, C-contiguous, of a shape that ``spec`` takes; only read.
        time_limit_s
            The run is broken off when it takes longer; without any time left it does not begin.

        Returns
        -------
        ``[batch, channel, axes…]``, the caller's own: float32, finite; or whole numbers or truth values
        where the network gives labels or masks.

        Raises
        ------
        InferenceTimeout
            It took longer than the limit.
        InferenceFailed
            The runtime failed, or the output is not finite.
        ValueError
            The tensor is not what the network takes: a defect of the caller.
        """
        if not self.spec.takes(tensor.shape) or tensor.dtype != np.float32 or not tensor.flags.c_contiguous:
            expected = f"{self.spec.min_shape or ''}{self.spec.input_shape}"
            raise ValueError(f"{self.spec.name} takes contiguous float32 {expected}, not {tensor.dtype} {tensor.shape}")
        if time_limit_s <= 0:
            raise self.timed_out(time_limit_s)
        started = time.monotonic()
        output = self._run(tensor, time_limit_s)
        self.seconds = time.monotonic() - started
        if output.dtype.kind in "uib":
            return output
        output = np.asarray(output, dtype=np.float32)
        if not np.isfinite(output).all():
            raise InferenceFailed(
                f"the network {self.spec.name} gave values that are not finite",
                mend="If it happens again, run it in float32 (runtime.precision in the manifest)",
            )
        return output

    def timed_out(self, time_limit_s: float) -> InferenceTimeout:
        """The error for a run that was broken off."""
        return InferenceTimeout(
            f"the network {self.spec.name} took too long",
            expected=f"at most {max(0.0, time_limit_s):.3g} s (what was left of runtime.time_limit_s in the manifest)",
            mend="Give the worker more threads, or use a faster backend",
        )

    @abstractmethod
    def run_bare(self, tensor: NDArray[np.float32]) -> NDArray[Any]:
        """Run the loaded network as the runtime's own benchmark would, to measure what ``run`` adds to it.

        No checks, no time limit; what is returned may be the runtime's own memory, which the next run overwrites.
        """

    @abstractmethod
    def _run(self, tensor: NDArray[np.float32], time_limit_s: float) -> NDArray[Any]:
        """Run the network on a checked tensor; ``time_limit_s``, which is more than 0, must be kept.

        The array that is returned has the network's own type, and is never written to again.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the network's memory; the session is not used afterwards."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Backend(ABC):
    """An inference runtime.

    Parameters
    ----------
    threads
        Threads that one run may use; 0 leaves it to the runtime.
    cache
        Folder for what the runtime compiles; it can be emptied at any time.
    gpu
        Which GPU a backend that uses one takes, and how much of its memory.

    Attributes
    ----------
    rewritten
        The precisions for which it must be given a network that is rewritten in them; the others it makes itself.
    builds_differ
        Whether two engines of one network may compute differently: each is then verified by itself.
    """

    name: ClassVar[str]
    rewritten: ClassVar[frozenset[Precision]] = frozenset({"float16", "bfloat16", "int8"})
    builds_differ: ClassVar[bool] = False

    def __init__(self, *, threads: int, cache: Path, gpu: GpuShare = WHOLE_GPU) -> None:
        self.threads = threads
        self.cache = cache
        self.gpu = gpu

    @classmethod
    @abstractmethod
    def unavailable(cls, precision: Precision) -> str | None:
        """Why this backend cannot run networks of this precision here (what is missing), or ``None`` when it can."""

    @abstractmethod
    def version(self) -> str:
        """The runtime's version, as results state it."""

    def device(self) -> str:
        """What the networks run on: results may differ by a rounding on another."""
        return _cpu()

    def device_memory_used(self) -> int:
        """Bytes of a GPU that are in use, by everyone; 0 for a backend that has memory of the host only."""
        return 0

    @final
    def open(self, model: Path, spec: NetworkSpec) -> Session:
        """Load a network and run it once on zeros, so that the first image is as quick as the others.

        Raises
        ------
        ModelPackageError
            The file is no network, or not the one that the manifest describes.
        InferenceFailed
            It loads but does not run.
        """
        session = self._open(model, spec)
        try:
            output = session.run(np.zeros(spec.warm_up_shape, dtype=np.float32), time_limit_s=_WARM_UP_LIMIT_S)
            if output.ndim != len(spec.input_shape) or output.shape[0] != spec.input_shape[0]:
                raise ModelPackageError(
                    f"the output of {spec.name} is not [batch, channel, axes…]", found=f"shape {output.shape}"
                )
        except BaseException:
            session.close()
            raise
        return session

    @abstractmethod
    def _open(self, model: Path, spec: NetworkSpec) -> Session:
        """Load a network; check that it has the tensors of ``spec`` with ``check_tensors``."""


@functools.cache
def _cpu() -> str:
    """The CPU's model name, and its vector instructions, which decide how a sum is rounded."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    entries = dict(re.findall(r"^(model name|flags)\s*:\s*(.*)$", text, re.MULTILINE))
    vector = sorted(flag for flag in entries.get("flags", "").split() if re.match(r"avx|amx|fma|sse4", flag))
    return f"{entries.get('model name', platform.machine())} ({' '.join(vector)})"


_WARM_UP_LIMIT_S = 600.0
"""The first run may compile; a limit keeps a hanging runtime from blocking the start for ever."""


def check_tensors(
    model: Path, spec: NetworkSpec, inputs: dict[str, tuple[int | str | None, ...]], outputs: dict[str, object]
) -> None:
    """Compare the tensors of a loaded network with what the manifest says.

    Parameters
    ----------
    inputs
        Name → shape of each input; a free axis is anything but a number.

    Raises
    ------
    ModelPackageError
        They differ.
    """
    if list(inputs) != [spec.input_tensor] or spec.output_tensor not in outputs:
        raise ModelPackageError(
            f"{model.name} does not have the tensors that the manifest names",
            found=f"inputs {sorted(inputs)}, outputs {sorted(outputs)}",
            expected=f"input {spec.input_tensor!r}, output {spec.output_tensor!r}",
            mend="Correct the stage in the manifest, or put the right file in its place",
        )
    shape = inputs[spec.input_tensor]
    least = spec.min_shape or spec.input_shape
    # An axis that the manifest leaves free must be free in the file too.
    fits = len(shape) == len(least) and all(
        not isinstance(axis, int) or axis == low == high
        for axis, low, high in zip(shape, least, spec.input_shape, strict=True)
    )
    if not fits:
        raise ModelPackageError(
            f"{model.name} takes another shape than the manifest says",
            found=str(list(shape)),
            expected=str(list(spec.input_shape)),
            mend="Correct input_shape in the manifest, or put the right file in its place",
        )


def wrong_element_type(model: Path, found: str) -> ModelPackageError:
    """The error for a network whose input is not float32; ``found`` is what the runtime calls its elements."""
    return ModelPackageError(
        f"{model.name} takes other numbers than the appliance gives",
        found=f"elements of type {found}",
        expected="float32",
        mend="Export the network with a float32 input; runtime.precision in the manifest says how it computes",
    )
