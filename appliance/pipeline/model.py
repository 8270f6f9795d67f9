"""A model, ready to judge images: its networks on a backend, its steps before, its readout after."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from appliance.backends.base import Backend, NetworkSpec, Session
from appliance.backends.table import choose
from appliance.domain.image import Image
from appliance.domain.result import Algorithm, InferenceResult
from appliance.domain.states import Stage
from appliance.errors import ApplianceError, BackendUnavailable, InferenceFailed, ModelPackageError
from appliance.imaging.loading import LoadedImage, load_image
from appliance.imaging.preparation import Preparation
from appliance.manifest.manifest import Manifest, StageSpec
from appliance.modelrepo.package import ModelPackage
from appliance.readout.readout import read_out

_log = logging.getLogger(__name__)


def network_of(manifest: Manifest, stage: StageSpec) -> NetworkSpec:
    """What the backends must know of one stage's network."""
    return NetworkSpec(
        name=f"{manifest.name}/{stage.name}",
        input_tensor=stage.input_tensor,
        input_shape=tuple(stage.input_shape),
        output_tensor=stage.output_tensor,
        precision=manifest.runtime.precision,
        min_shape=None if stage.profile is None else tuple(stage.profile.min),
        typical_shape=None if stage.profile is None else tuple(stage.profile.typical),
    )


class Model:
    """One model package on this machine.

    ``load`` may be called from another thread; everything else belongs to the thread that called ``open``.
    """

    def __init__(self, package: ModelPackage, *, threads: int, cache: Path) -> None:
        self.manifest = package.manifest
        self._package = package
        self._threads = threads
        self._cache = cache
        self._backend: Backend | None = None
        self._sessions: dict[str, Session] = {}

    def load(self, paths: Sequence[Path]) -> LoadedImage:
        """Load the files of an instance or a series; raises ``UnsuitableImage``."""
        return load_image(paths, self.manifest.input)

    def open(self) -> str:
        """Check the weights, load the networks and run each once; return the backend's name.

        Raises
        ------
        ModelPackageError, BackendUnavailable, InferenceFailed
            The model cannot run here.
        """
        files = self._package.require_weights()
        runtime = self.manifest.runtime
        failures: list[ApplianceError] = []
        for name in runtime.backends:
            try:
                self._open_on(choose([name], runtime.precision, threads=self._threads, cache=self._cache), files)
            except (BackendUnavailable, ModelPackageError, InferenceFailed) as error:
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
                self._sessions[stage.name] = backend.open(files[stage.weights], network_of(self.manifest, stage))
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

    def judge(self, image: Image, stages: MutableMapping[str, float]) -> InferenceResult:
        """Run the model on an image.

        Parameters
        ----------
        stages
            Gets the seconds that the networks ran (``infer``) and that everything else around them took: preparing
            counts as ``load``, and reading out is ``read_out``.

        Raises
        ------
        UnsuitableImage, InferenceFailed
            See ``Preparation``, ``Session`` and ``read_out``.
        """
        started = time.monotonic()
        preparation = Preparation(image)
        infer_s = 0.0
        for stage in self.manifest.stages:
            session = self._sessions[stage.name]
            output = session.run(preparation.tensor(stage), time_limit_s=self.manifest.runtime.time_limit_s - infer_s)
            infer_s += session.seconds
            if stage.box is not None:
                preparation.locate(output, stage.box)
        prepared = time.monotonic()
        result = read_out(output, preparation.restore, image, self.manifest, self._algorithm())
        stages[Stage.LOAD] = stages.get(Stage.LOAD, 0.0) + prepared - started - infer_s
        stages[Stage.INFER] = infer_s
        stages[Stage.READ_OUT] = time.monotonic() - prepared
        return result

    def _algorithm(self) -> Algorithm:
        """Who made the result, down to what could change a number (PS3.16 TID 4019)."""
        assert self._backend is not None
        spec = self.manifest.algorithm
        return Algorithm(
            name=spec.name,
            version=spec.version,
            family=spec.family.code(),
            manufacturer=spec.manufacturer,
            parameters=(
                ("model package", self.manifest.key),
                *((f"SHA-256 of {weights.file}", weights.sha256) for weights in self.manifest.weights),
                ("backend", f"{self._backend.name} {self._backend.version()}"),
                ("precision", self.manifest.runtime.precision),
            ),
        )
