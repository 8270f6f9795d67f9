"""What a reduced precision costs, measured on the CPU before any engine is built or any device is there.

The reference is ONNX Runtime in float32. The candidate is ONNX Runtime too: in int8 on the very network that the
device gets; for float16 and bfloat16, which it cannot compute, on a network that rounds as they do (see
``graphs.precision``). What a device adds to that is found when its golden cases are verified there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import VerificationFailed
from appliance.manifest.manifest import Precision
from appliance.modelrepo.package import ModelPackage
from appliance.pipeline.calibration import SiteImages
from appliance.pipeline.model import Model
from appliance.pipeline.networks import emulated_networks, own_networks, served_networks
from appliance.pipeline.verification import Verification, compare_case
from appliance.pipeline.verifier import REFERENCE, golden_images, judged


@contextmanager
def reference_of(package: ModelPackage, *, threads: int, cache: Path) -> Iterator[Model]:
    """The model in float32, open on ONNX Runtime."""
    backend, precision = REFERENCE
    model = Model(
        package, threads=threads, cache=cache, backends=[backend], precision=precision, networks=own_networks()
    )
    try:
        model.open()
        yield model
    finally:
        model.close()


def rehearse(
    reference: Model,
    precision: Precision,
    site: SiteImages | None,
    *,
    threads: int,
    cache: Path,
    progress: Callable[[str], None],
) -> Verification:
    """Judge the golden images, and those of the site, in float32 and in another precision; compare.

    Parameters
    ----------
    reference
        Open; see ``reference_of``.

    Returns
    -------
    With the figures and failures of each image; whoever calls decides with ``require_passed``.

    Raises
    ------
    ModelPackageError, BackendUnavailable, InferenceFailed
        The candidate cannot run.
    """
    package = reference.package
    if precision in ("float16", "bfloat16"):
        networks, own, how = emulated_networks(cache, precision), REFERENCE[1], ", rounding"
    else:
        networks, own, how = served_networks(cache, fold=False), precision, ""
    candidate = Model(package, threads=threads, cache=cache, backends=[REFERENCE[0]], precision=own, networks=networks)
    candidate.open()
    try:
        backend = candidate.backend
        name = f"{backend.name} {backend.version()}{how}"
        cases = []
        # One image at a time: the outputs of large networks take a gigabyte each.
        for case, image in golden_images(package):
            progress(f"{package.manifest.key}: {case.name}, in float32 and {precision}")
            cases.append(
                compare_case(
                    package.manifest, case.name, case.expect, judged(candidate, image), judged(reference, image)
                )
            )
        for number, image in enumerate(site.load(reference) if site else (), start=1):
            progress(f"{package.manifest.key}: image {number} of this site, in float32 and {precision}")
            title = f"image {number} of this site"
            cases.append(compare_case(package.manifest, title, (), judged(candidate, image), judged(reference, image)))
    finally:
        candidate.close()
    return Verification(
        model=package.manifest.key,
        backend=name,
        precision=precision,
        device=backend.device(),
        verified_at=time.time(),
        cases=tuple(cases),
    )


def require_passed(rehearsal: Verification) -> None:
    """Raise ``VerificationFailed``, with the figures, when a precision loses more than the package allows."""
    if not rehearsal.passed:
        raise VerificationFailed(
            f"{rehearsal.model} loses too much in {rehearsal.precision}, it is refused",
            found="; ".join(rehearsal.failures)[:600],
            mend="Keep float32, or take another precision; for int8, calibrate with more and other images",
        )
