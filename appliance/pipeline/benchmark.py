"""How fast a model's networks run on this machine, next to the bare runtime, and what they need.

Each measurement has a fresh process of its own: what it finds in memory is the model's, and a crash in native code is
an error like any other.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from appliance.backends.apart import die_with_parent
from appliance.backends.base import Session
from appliance.domain.image import Image
from appliance.errors import InferenceFailed, VerificationFailed
from appliance.imaging.loading import load_golden
from appliance.imaging.preparation import Preparation
from appliance.manifest.manifest import BackendName, Precision
from appliance.modelrepo.package import ModelPackage
from appliance.pipeline.model import Gate, Model
from appliance.pipeline.verification import Verification
from appliance.pipeline.verifier import Verifier

_Result = TypeVar("_Result")

_MIN_RUNS, _MAX_RUNS = 3, 500
_WARM_UP_IMAGES = 3
"""Memory pools have their size after so many images."""
_ENOUGH_IMAGES, _PATIENCE_S = 20, 60.0
"""A leak shows over so many images; of a model that takes long for each, over as many as this time has room for."""
_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: a package on a backend in a precision.

    Attributes
    ----------
    threads, cache
        See ``Backend``.
    """

    package: ModelPackage
    backend: BackendName
    precision: Precision
    threads: int
    cache: Path

    def __str__(self) -> str:
        return f"{self.package.manifest.key} on {self.backend} in {self.precision}"

    def open(self, gate: Gate | None = None) -> Model:
        """Open the model so; without a gate, whether it is verified or not."""
        model = Model(
            self.package, threads=self.threads, cache=self.cache, backends=[self.backend], precision=self.precision
        )
        model.open(gate)
        return model


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured; all networks of the model together.

    Attributes
    ----------
    version
        Of the runtime.
    input
        Name of the golden case whose image was run, or ``noise`` for a package that has none.
    load_s
        Until the networks could run.
    first_ms
        The first run of each, on zeros.
    p50_ms, p99_ms
        Through ``Session.run``, checks included.
    bare_p50_ms
        The same loaded networks run by the runtime alone, in turn with the others.
    ratio
        Median of bare / ours, run by run; 1 when the appliance adds nothing.
    runs
        Of each kind.
    memory_mb
        Most that the process had resident, with the image and the runtime, before the bare runs.
    """

    version: str
    input: str
    load_s: float
    first_ms: float
    p50_ms: float
    p99_ms: float
    bare_p50_ms: float
    ratio: float
    runs: int
    memory_mb: int


_DEVICE_ALLOWED_MB = 16
"""The driver hands memory out in pieces of 2 MB, and other processes may use the GPU too."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Memory before and after many images went through the whole model: resident, and on a GPU.

    Attributes
    ----------
    allowed_mb
        What the allocator may keep back without it being a leak; on a GPU nothing is allocated while a model runs.
    """

    images: int
    before_mb: int
    after_mb: int
    allowed_mb: int
    device_before_mb: int = 0
    device_after_mb: int = 0

    @property
    def leaks(self) -> bool:
        """Whether it grew more than it may."""
        on_device = self.device_after_mb - self.device_before_mb
        return self.after_mb - self.before_mb > self.allowed_mb or on_device > _DEVICE_ALLOWED_MB


def measure_apart(subject: Subject, seconds: float) -> Figures:
    """Measure in a process of its own.

    Parameters
    ----------
    seconds
        How long the runs go on; there are at least three of each kind.

    Raises
    ------
    ModelPackageError, BackendUnavailable, InferenceFailed
        The model cannot run so; also when it took the process with it.
    """
    return _apart(_measure, subject, seconds)


def verify_apart(subject: Subject, folder: Path, *, again: bool) -> Verification:
    """Judge the golden images in a process of its own, or recall what came of them; see ``Verifier``.

    Parameters
    ----------
    folder
        Where verifications are kept.
    again
        Even when it is known.

    Raises as ``measure_apart`` does; a verification that failed is returned.
    """
    return _apart(_verify, subject, folder, again)


def growth_apart(subject: Subject, seconds: float) -> Growth:
    """Judge one image again and again in a process of its own, and see whether its memory grows.

    Raises as ``measure_apart`` does.
    """
    return _apart(_grow, subject, seconds)


def compare_apart(subjects: list[Subject], seconds: float) -> list[float]:
    """Run several subjects of one package in turn, in one process; return the median of each in ms.

    In turn, because a machine is not the same for two measurements. Raises as ``measure_apart`` does.
    """
    return _apart(_compare, subjects, seconds)


def _apart(function: Callable[..., _Result], *arguments: object) -> _Result:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=die_with_parent) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise InferenceFailed(
                "the process that measured died",
                mend="Look at the memory of this machine, and at the kernel's log",
            ) from error


def _verify(subject: Subject, folder: Path, again: bool) -> Verification:
    found: list[Verification] = []
    gates = Verifier(folder, threads=subject.threads, cache=subject.cache, observe=found.append)
    try:
        subject.open(gates.require_anew if again else gates.require).close()
    except VerificationFailed:
        if not found:
            raise
    return found[0]


def _measure(subject: Subject, seconds: float) -> Figures:
    image, name = _image(subject.package)
    started = time.monotonic()
    model = subject.open()
    opened = time.monotonic() - started
    first = sum(session.seconds for session in model.sessions.values())
    inputs = _inputs(model, image)
    _once(inputs)
    memory = _peak_mb()
    _once_bare(inputs)  # its own memory
    ours: list[float] = []
    bare: list[float] = []
    deadline = time.monotonic() + seconds
    while len(ours) < _MIN_RUNS or (time.monotonic() < deadline and len(ours) < _MAX_RUNS):
        # Who runs first changes, because the first finds the caches as the other left them.
        if len(ours) % 2:
            bare.append(_once_bare(inputs))
            ours.append(_once(inputs))
        else:
            ours.append(_once(inputs))
            bare.append(_once_bare(inputs))
    version = model.backend.version()
    model.close()
    return Figures(
        version=version,
        input=name,
        load_s=opened - first,
        first_ms=first * 1e3,
        p50_ms=float(np.median(ours)) * 1e3,
        p99_ms=float(np.quantile(ours, 0.99, method="higher")) * 1e3,
        bare_p50_ms=float(np.median(bare)) * 1e3,
        ratio=float(np.median(np.divide(bare, ours))),
        runs=len(ours),
        memory_mb=memory,
    )


def _device_mb(model: Model) -> int:
    """Memory of the GPU that is in use, rounded up; 0 on the CPU."""
    return -(-model.backend.device_memory_used() // 2**20)


def _grow(subject: Subject, seconds: float) -> Growth:
    image, _ = _image(subject.package)
    model = subject.open()
    inputs = _inputs(model, None) if image is None else []

    def once() -> None:
        if image is None:
            _once(inputs)
        else:
            model.judge(image, {})

    for _ in range(_WARM_UP_IMAGES):
        once()
    before, device_before = _resident_mb(), _device_mb(model)
    images, started = 0, time.monotonic()
    while (
        images < _MIN_RUNS
        or (passed := time.monotonic() - started) < seconds
        or (images < _ENOUGH_IMAGES and passed < _PATIENCE_S)
    ):
        once()
        images += 1
    after, device_after = _resident_mb(), _device_mb(model)
    model.close()
    return Growth(images, before, after, 32 + before // 20, device_before, device_after)


def _compare(subjects: list[Subject], seconds: float) -> list[float]:
    image, _ = _image(subjects[0].package)
    models = [subject.open() for subject in subjects]
    inputs = [_inputs(model, image) for model in models]
    samples: list[list[float]] = [[] for _ in models]
    deadline = time.monotonic() + seconds
    while len(samples[0]) < _MIN_RUNS or (time.monotonic() < deadline and len(samples[0]) < _MAX_RUNS):
        order = range(len(models)) if len(samples[0]) % 2 else reversed(range(len(models)))
        for index in order:
            samples[index].append(_once(inputs[index]))
    for model in models:
        model.close()
    return [float(np.median(found)) * 1e3 for found in samples]


_Inputs = list[tuple[Session, NDArray[np.float32]]]


def _image(package: ModelPackage) -> tuple[Image | None, str]:
    """The image of the first golden case."""
    paths = package.require_golden()
    for case in package.manifest.golden:
        return load_golden(paths[case.name], case.image, package.manifest.input), case.name
    return None, "noise"


def _inputs(model: Model, image: Image | None) -> _Inputs:
    """What each network gets: the image, prepared as for a patient's, or noise of the shape that it is tuned for."""
    inputs: _Inputs = []
    preparation = None if image is None else Preparation(image)
    for stage in model.manifest.stages:
        session = model.sessions[stage.name]
        if preparation is None:
            noise = np.random.default_rng(0).standard_normal(session.spec.warm_up_shape, dtype=np.float32)
            inputs.append((session, noise))
            continue
        tensor = preparation.tensor(stage)
        inputs.append((session, tensor))
        if stage.box is not None:
            preparation.locate(session.run(tensor, time_limit_s=model.manifest.runtime.time_limit_s), stage.box)
    return inputs


def _once(inputs: _Inputs) -> float:
    """Run each network once; return the seconds that it took."""
    total = 0.0
    for session, tensor in inputs:
        started = time.perf_counter()
        session.run(tensor, time_limit_s=_LIMIT_S)
        total += time.perf_counter() - started
    return total


def _once_bare(inputs: _Inputs) -> float:
    total = 0.0
    for session, tensor in inputs:
        started = time.perf_counter()
        session.run_bare(tensor)
        total += time.perf_counter() - started
    return total


def _resident_mb() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss) >> 20


def _peak_mb() -> int:
    """Most memory that this process ever had resident (``VmHWM``, proc(5))."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) >> 10
