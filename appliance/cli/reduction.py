"""Networks of a package in a reduced precision: made, measured on the CPU, refused when they lose too much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from appliance.cli.models import print_verification
from appliance.cli.units import units_in
from appliance.errors import VerificationFailed
from appliance.manifest.manifest import Precision
from appliance.modelrepo.package import ModelPackage, weights_sha256
from appliance.pipeline.calibration import SiteImages, choose_images
from appliance.pipeline.model import Model
from appliance.pipeline.networks import Network, folded, graph_cache, network_in, place_of
from appliance.pipeline.rehearsal import reference_of, rehearse, require_passed
from appliance.spool.derived import Derived


def package_networks(package: ModelPackage, cache: Path) -> dict[str, Network]:
    """The network of each stage as the package has it, by the stage's name; raises as ``require_weights`` does."""
    files = package.require_weights()
    own = {
        stage.name: Network(files[stage.weights], weights_sha256(package.manifest, stage))
        for stage in package.manifest.stages
    }
    return _folded(package, own, cache)


def reduced_networks(
    package: ModelPackage,
    precision: Precision,
    calibrate: Path | None,
    *,
    threads: int,
    cache: Path,
    max_bytes: int,
    say: Callable[[str], None],
) -> dict[str, Network]:
    """The network of each stage in a precision, by the stage's name; what it costs is measured and printed.

    Parameters
    ----------
    calibrate
        Folder of DICOM images of the site, for int8.
    max_bytes
        Larger files in it are left out.
    say
        Called with one line about what is being done, or left out.

    Raises
    ------
    VerificationFailed
        It loses more than the package allows.
    ModelPackageError, BackendUnavailable, InferenceFailed
        It cannot be made, or the model cannot run here in float32.
    """
    files = package.require_weights()
    graphs = graph_cache(cache)
    made: dict[str, Derived] = {}
    with reference_of(package, threads=threads, cache=cache) as reference:
        site = None if calibrate is None else _site_images(reference, calibrate, max_bytes, say)
        for stage in package.manifest.stages:
            own, sha256 = files[stage.weights], weights_sha256(package.manifest, stage)
            if precision in ("float16", "bfloat16"):
                made[stage.name] = graphs.reduced(own, sha256, precision)
            elif site is not None:
                say(f"{package.manifest.key}: {stage.name} is calibrated on {len(site.images)} image(s)")
                made[stage.name] = graphs.quantized(
                    own,
                    sha256,
                    place=place_of(package, stage),
                    calibration=site.sha256,
                    images=len(site.images),
                    tensors=site.tensors(reference, stage),
                )
        rehearsal = rehearse(reference, precision, site, threads=threads, cache=cache, progress=say)
    print(f"{package.manifest.key} in {precision}, against float32:")
    print_verification(rehearsal)
    try:
        require_passed(rehearsal)
    except VerificationFailed:
        if precision == "int8":
            for network in made.values():
                graphs.remove(network)  # else it would be the one that serves
        raise
    return _folded(package, {name: network_in(network) for name, network in made.items()}, cache)


def _folded(package: ModelPackage, networks: dict[str, Network], cache: Path) -> dict[str, Network]:
    return {
        stage.name: folded(cache, package.manifest, stage, networks[stage.name]) for stage in package.manifest.stages
    }


def _site_images(reference: Model, folder: Path, max_bytes: int, say: Callable[[str], None]) -> SiteImages:
    """The images below a folder that the model can judge; how many others there are, and why, is said."""
    left_out: Counter[str] = Counter()
    wanted = []
    manifest = reference.manifest
    for unit in units_in(folder, manifest.scope, max_bytes=max_bytes, say=say):
        refusal = unit.refusal(manifest.match)
        if refusal is None:
            wanted.append(unit.paths)
        else:
            left_out[refusal] += 1
    site = choose_images(reference, wanted, left_out, say)
    for reason, count in sorted(site.left_out.items()):
        say(f"left out ({count}): {reason}")
    return site
