"""Who verifies: runs the golden images once for each backend, precision and machine, and remembers what came of it."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from appliance.backends.base import Backend
from appliance.backends.table import choose
from appliance.domain.image import Image
from appliance.errors import DeviceLost, DeviceOutOfMemory, InferenceFailed, UnsuitableImage, VerificationFailed
from appliance.imaging.loading import load_golden
from appliance.manifest.golden import GoldenCase
from appliance.manifest.manifest import BackendName, Precision
from appliance.modelrepo.package import ModelPackage, file_sha256
from appliance.pipeline.model import Confirm, Model
from appliance.pipeline.networks import own_networks, require_calibrated
from appliance.pipeline.verification import Judged, Verification, compare
from appliance.spool.durable import ensure_folder, write_durably
from appliance.version import __version__

Progress = Callable[[str], None]
"""Called with one line about what is being done."""

_log = logging.getLogger(__name__)

REFERENCE: tuple[BackendName, Precision] = ("onnxruntime", "float32")
"""What everything else is compared with."""


class Verifier:
    """Keeps verifications below one folder, one file each, named by all that a result depends on.

    A new driver, runtime, release of the appliance or CPU gives another name: the model is then verified again.

    Parameters
    ----------
    threads, cache
        See ``Backend``.
    observe
        Told of each verification that decides whether a model opens.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threads: int,
        cache: Path,
        progress: Progress = _log.info,
        observe: Callable[[Verification], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._observe = observe
        self._threads = threads
        self._cache = cache
        self._progress = progress

    def find(
        self, package: ModelPackage, backend: Backend, precision: Precision, variant: str = ""
    ) -> Verification | None:
        """Return what is known of a package on a backend of this machine, ``None`` when it was never verified here.

        ``variant`` is that of the open model, where the backend's builds differ.
        """
        path = self._path(package, backend, precision, variant)
        try:
            return Verification.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            _log.warning("the verification %s cannot be read and is done anew", path.name)
            return None

    def known(self, package: ModelPackage) -> list[Verification]:
        """All verifications of this version of a package that were done here, the newest first; for display."""
        found = []
        for path in self._folder.glob("*.json"):
            try:
                verification = Verification.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):
                continue
            if verification.model == package.manifest.key:
                found.append(verification)
        return sorted(found, key=lambda verification: -verification.verified_at)

    def require(self, package: ModelPackage, backend: Backend, precision: Precision, *, anew: bool = False) -> Confirm:
        """A gate for ``Model.open``: the model opens only if it has passed, which it has to show now if it never did.

        The reference runs before the model is opened, so that the memory of both is never needed at once; but where
        builds differ the model is on a device with memory of its own.

        Raises
        ------
        ModelPackageError, BackendUnavailable, InferenceFailed
            The images or the weights are not here, or the reference cannot run.
        VerificationFailed
            By what is returned: the model is further from the reference than its package allows.
        """
        # Which engine it is, and so whether it is known, is seen when the model is open.
        known = None if backend.builds_differ else self.find(package, backend, precision)
        reference = None
        is_reference = (backend.name, precision) == REFERENCE and not package.manifest.runtime.fold
        if known is None and not backend.builds_differ and not is_reference:
            reference = self._reference(package)

        def confirm(model: Model) -> Verification:
            verification = known
            if backend.builds_differ and not anew:
                verification = self.find(package, backend, precision, model.variant)
            if verification is None:
                verification = self._verify(model, self._reference(package) if backend.builds_differ else reference)
            self._observe(verification)
            if not verification.passed:
                raise VerificationFailed(
                    f"{verification.model} does not pass its golden cases on {verification.backend} "
                    f"in {verification.precision}",
                    found="; ".join(verification.failures)[:600],
                    mend="See: appliance models show; another backend or precision, or the version before, may serve",
                )
            return verification

        return confirm

    def require_anew(self, package: ModelPackage, backend: Backend, precision: Precision) -> Confirm:
        """As ``require``, but what is known does not count."""
        self._path(package, backend, precision).unlink(missing_ok=True)
        return self.require(package, backend, precision, anew=True)

    def recall(self, package: ModelPackage, backend: Backend, precision: Precision) -> Confirm:
        """A gate that lets every model open, with what is known of it."""
        return lambda model: self.find(package, backend, precision, model.variant)

    def _reference(self, package: ModelPackage) -> dict[str, Judged]:
        name, precision = REFERENCE
        model = Model(
            package,
            threads=self._threads,
            cache=self._cache,
            backends=[name],
            precision=precision,
            networks=own_networks(),
        )
        model.open()
        try:
            return self._judge(model)
        finally:
            model.close()

    def _verify(self, model: Model, reference: dict[str, Judged] | None) -> Verification:
        """Judge, compare and remember; without a reference the model is the reference itself."""
        package, backend = model.package, model.backend
        candidate = self._judge(model)
        verification = Verification(
            model=package.manifest.key,
            backend=f"{backend.name} {backend.version()}",
            precision=model.precision,
            device=backend.device(),
            verified_at=time.time(),
            cases=tuple(compare(package.manifest, candidate, candidate if reference is None else reference)),
        )
        ensure_folder(self._folder)
        write_durably(
            self._path(package, backend, model.precision, model.variant),
            verification.model_dump_json(indent=2).encode(),
        )
        return verification

    def _judge(self, model: Model) -> dict[str, Judged]:
        outcome = {}
        for case, image in golden_images(model.package):
            self._progress(f"{model.manifest.key}: {case.name}, by {model.backend.name} in {model.precision}")
            outcome[case.name] = judged(model, image)
        return outcome

    def _calibrated(self, package: ModelPackage) -> list[str]:
        """SHA-256 of the int8 networks: calibrated anew, the model is another."""
        return [require_calibrated(self._cache, package, stage).info["sha256"] for stage in package.manifest.stages]

    def _path(self, package: ModelPackage, backend: Backend, precision: Precision, variant: str = "") -> Path:
        parts = {
            "manifest": file_sha256(package.folder / "manifest.yaml"),
            "weights": [weights.sha256 for weights in package.manifest.weights],
            "backend": [backend.name, backend.version()],
            "reference": choose([REFERENCE[0]], REFERENCE[1], threads=1, cache=self._cache).version(),
            "precision": precision,
            **({"variant": variant} if variant else {}),
            "calibrated": self._calibrated(package) if precision == "int8" else None,
            "device": backend.device(),
            "appliance": __version__,
        }
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
        return self._folder / f"{key}.json"


def golden_images(package: ModelPackage) -> Iterator[tuple[GoldenCase, Image]]:
    """The golden cases of a package, each image loaded when it is asked for; raises as ``require_golden`` does."""
    paths = package.require_golden()
    for case in package.manifest.golden:
        yield case, load_golden(paths[case.name], case.image, package.manifest.input)


def judged(model: Model, image: Image) -> Judged:
    """What a model makes of an image; that it refuses it is an outcome too.

    A device that is lost or full is none: it says nothing of the model, and must not be remembered.
    """
    try:
        return Judged(*model.judge_with_output(image, {}))
    except (DeviceLost, DeviceOutOfMemory):
        raise
    except (UnsuitableImage, InferenceFailed) as error:
        return Judged(None, None, str(error))
