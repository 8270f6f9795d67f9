"""A model, ready to judge images: its networks on a backend, its steps before, its readout after."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.backends.base import Backend, NetworkSpec, Session
from appliance.backends.gpu_share import WHOLE_GPU, GpuShare
from appliance.backends.table import choose
from appliance.domain.image import Image
from appliance.domain.result import Algorithm, InferenceResult
from appliance.domain.states import Stage
from appliance.errors import ApplianceError, BackendUnavailable, InferenceFailed, ModelPackageError
from appliance.imaging.loading import LoadedImage, load_image
from appliance.imaging.preparation import Preparation
from appliance.imaging.source import ImageSource
from appliance.manifest.manifest import BackendName, Manifest, Precision, StageSpec
from appliance.modelrepo.package import ModelPackage
from appliance.pipeline.networks import Networks, served_networks, unfolded
from appliance.pipeline.verification import Verification
from appliance.readout.readout import read_out

_log = logging.getLogger(__name__)

Confirm = Callable[["Model"], Verification | None]
"""Called with the open model; raises ``VerificationFailed`` when it must not serve."""
Gate = Callable[[ModelPackage, Backend, Precision], Confirm]
"""Called before the model opens on a backend: what has to hold for it to serve there."""


def network_of(manifest: Manifest, stage: StageSpec, precision: Precision | None = None) -> NetworkSpec:
    """What the backends must know of one stage's network, in the manifest's precision or another."""
    return NetworkSpec(
        name=f"{manifest.name}/{stage.name}",
        input_tensor=stage.input_tensor,
        input_shape=tuple(stage.input_shape),
        output_tensor=stage.output_tensor,
        precision=precision or manifest.runtime.precision,
        min_shape=None if stage.profile is None else tuple(stage.profile.min),
        typical_shape=None if stage.profile is None else tuple(stage.profile.typical),
    )


@dataclass(frozen=True, slots=True, eq=False)
class FirstTensor:
    """What the first network of a model gets for one image, and how it came about; for one run."""

    preparation: Preparation
    tensor: NDArray[np.float32]


class Model:
    """One model package on this machine.

    ``load`` and ``prepare`` may be called from other threads; all else belongs to the thread that called ``open``.

    Parameters
    ----------
    backends, precision
        Instead of those of the manifest.
    gpu
        See ``Backend``.
    networks
        Which files the backend is given; those that serve, unless told otherwise.

    Attributes
    ----------
    verification
        What is known, on the backend that it is open on, of its golden cases.
    """

    def __init__(
        self,
        package: ModelPackage,
        *,
        threads: int,
        cache: Path,
        backends: Sequence[BackendName] | None = None,
        precision: Precision | None = None,
        networks: Networks | None = None,
        gpu: GpuShare = WHOLE_GPU,
    ) -> None:
        self.package = package
        self.manifest = package.manifest
        self.precision = precision or package.manifest.runtime.precision
        self.verification: Verification | None = None
        self._backends = backends or package.manifest.runtime.backends
        self._threads = threads
        self._cache = cache
        self._gpu = gpu
        self._networks = networks or served_networks(cache)
        self._backend: Backend | None = None
        self._sessions: dict[str, Session] = {}

    @property
    def backend(self) -> Backend:
        """The one that the model is open on."""
        assert self._backend is not None
        return self._backend

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The networks of the open model, by the name of their stage."""
        return self._sessions

    @property
    def device_bytes(self) -> int:
        """Memory of a GPU that its networks hold; 0 on the CPU."""
        return sum(session.device_bytes for session in self._sessions.values())

    @property
    def variant(self) -> str:
        """What may change a number beside the backend and the precision that the model is open in; mostly nothing."""
        return "; ".join(f"{name}: {session.variant}" for name, session in self._sessions.items() if session.variant)

    def load(self, paths: Sequence[Path], source: ImageSource | None = None) -> LoadedImage:
        """Load the files of an instance or a series; see ``load_image``."""
        return load_image(paths, self.manifest.input, source)

    def prepare(self, image: Image) -> FirstTensor:
        """Run the steps before the first network; raises as ``Preparation`` does."""
        preparation = Preparation(image)
        return FirstTensor(preparation, preparation.tensor(self._prepared(self.manifest.stages[0])))

    def open(self, gate: Gate | None = None) -> str:
        """Check the weights, load the networks and run each once; return the backend's name.

        The first backend that can run all networks, and that the gate lets pass, is used.

        Raises
        ------
        ModelPackageError, BackendUnavailable, InferenceFailed
            The model cannot run here.
        """
        files = self.package.require_weights()
        failures: list[ApplianceError] = []
        for name in self._backends:
            try:
                backend = choose([name], self.precision, threads=self._threads, cache=self._cache, gpu=self._gpu)
                confirm = None if gate is None else gate(self.package, backend, self.precision)
                self._open_on(backend, files)
                self.verification = None if confirm is None else confirm(self)
            except (BackendUnavailable, ModelPackageError, InferenceFailed) as error:
                self.close()
                failures.append(error)
                continue
            for failure in failures:
                _log.warning("%s runs on %s, because: %s", self.manifest.key, name, failure)
            return name
        if len(failures) == 1:
            raise failures[0]
        raise BackendUnavailable(
            f"no backend can run {self.manifest.key}", found="; ".join(str(failure) for failure in failures)
        )

    def _open_on(self, backend: Backend, files: Mapping[str, Path]) -> None:
        try:
            for stage in self.manifest.stages:
                spec = network_of(self.manifest, stage, self.precision)
                network = self._networks.files(self.package, stage, files[stage.weights], backend, self.precision)
                self._sessions[stage.name] = backend.open(network, spec)
        except BaseException:
            self.close()
            raise
        self._backend = backend

    def close(self) -> None:
        """Free the networks."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._backend = None

    def judge(
        self, image: Image, stages: MutableMapping[str, float], first: FirstTensor | None = None
    ) -> InferenceResult:
        """Run the model on an image; see ``judge_with_output``."""
        return self.judge_with_output(image, stages, first)[1]

    def judge_with_output(
        self, image: Image, stages: MutableMapping[str, float], first: FirstTensor | None = None
    ) -> tuple[NDArray[Any], InferenceResult]:
        """Run the model on an image; return the last network's output too.

        Parameters
        ----------
        stages
            Gets the seconds that the networks ran (``infer``) and that everything else around them took: preparing
            counts as ``load``, and reading out is ``read_out``. What passes before the first network starts is added
            to ``to_infer``.
        first
            What ``prepare`` has made of the image; it is made now when it is left out.

        Raises
        ------
        UnsuitableImage, InferenceFailed
            See ``Preparation``, ``Session`` and ``read_out``.
        """
        started = time.monotonic()
        first = first or self.prepare(image)
        preparation, tensor = first.preparation, first.tensor
        stages[Stage.TO_INFER] = stages.get(Stage.TO_INFER, 0.0) + time.monotonic() - started
        infer_s = 0.0
        for number, stage in enumerate(self.manifest.stages):
            session = self._sessions[stage.name]
            if number:
                tensor = preparation.tensor(self._prepared(stage))
            output = session.run(tensor, time_limit_s=self.manifest.runtime.time_limit_s - infer_s)
            infer_s += session.seconds
            if stage.box is not None:
                preparation.locate(output, stage.box)
        prepared = time.monotonic()
        result = read_out(output, preparation.restore, image, self.manifest, self._algorithm())
        stages[Stage.LOAD] = stages.get(Stage.LOAD, 0.0) + prepared - started - infer_s
        stages[Stage.INFER] = infer_s
        stages[Stage.READ_OUT] = time.monotonic() - prepared
        return output, result

    def tensor(self, image: Image, stage: StageSpec) -> NDArray[np.float32]:
        """What the network of a stage is given for an image; the networks before it are run.

        Raises
        ------
        UnsuitableImage, InferenceFailed
            See ``Preparation`` and ``Session``.
        """
        preparation = Preparation(image)
        for earlier in self.manifest.stages[: self.manifest.stages.index(stage)]:
            output = self._sessions[earlier.name].run(
                preparation.tensor(self._prepared(earlier)), time_limit_s=self.manifest.runtime.time_limit_s
            )
            if earlier.box is not None:
                preparation.locate(output, earlier.box)
        return preparation.tensor(self._prepared(stage))

    def _prepared(self, stage: StageSpec) -> StageSpec:
        """The stage with the steps that are done here, not in its network."""
        return unfolded(stage) if self._networks.folded and self.manifest.runtime.fold else stage

    def _algorithm(self) -> Algorithm:
        """Who made the result, down to what could change a number (PS3.16 TID 4019)."""
        spec = self.manifest.algorithm
        return Algorithm(
            name=spec.name,
            version=spec.version,
            family=spec.family.code(),
            manufacturer=spec.manufacturer,
            parameters=(
                ("model package", self.manifest.key),
                *((f"SHA-256 of {weights.file}", weights.sha256) for weights in self.manifest.weights),
                ("backend", f"{self.backend.name} {self.backend.version()}"),
                *((("engines", self.variant),) if self.variant else ()),
                ("precision", self.precision),
                ("verification", "not done" if self.verification is None else self.verification.summary()),
            ),
        )
