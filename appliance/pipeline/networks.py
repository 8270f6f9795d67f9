"""Which file a backend is given for a stage: the package's own network, or one that is derived from it.

Folding comes last: what is in front of a network in a narrow type, and behind it, is still computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.backends.base import Backend
from appliance.errors import BackendUnavailable
from appliance.graphs.folding import Folding
from appliance.graphs.graph_cache import GraphCache
from appliance.graphs.precision import Narrow
from appliance.manifest.manifest import Manifest, Precision, StageSpec
from appliance.manifest.steps import Affine
from appliance.modelrepo.package import ModelPackage, weights_sha256
from appliance.spool.derived import Derived


@dataclass(frozen=True, slots=True)
class Network:
    """A network on disk, and the SHA-256 of its file."""

    path: Path
    sha256: str


def network_in(cached: Derived) -> Network:
    """The network of an entry of the cache."""
    return Network(cached.path, str(cached.info["sha256"]))


Files = Callable[[ModelPackage, StageSpec, Path, Backend, Precision], Path]
"""Called with the package's own file for the stage; returns the file that the backend opens."""


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks that a model runs.

    Attributes
    ----------
    folded
        Whether what the manifest lets be folded is in the files, and must not be done around them again.
    """

    files: Files
    folded: bool


def graph_cache(cache: Path) -> GraphCache:
    """Derived networks below the cache of the state folder."""
    return GraphCache(cache / "graphs")


def served_networks(cache: Path, *, fold: bool = True) -> Networks:
    """The networks that serve: rewritten where the backend cannot reduce the precision by itself, and folded.

    ``files`` raises ``BackendUnavailable`` when there is no int8 network yet, and ``ModelPackageError`` when the
    network bears no reduction.
    """

    def file(package: ModelPackage, stage: StageSpec, own: Path, backend: Backend, precision: Precision) -> Path:
        network = Network(own, weights_sha256(package.manifest, stage))
        if precision in backend.rewritten:
            if precision == "int8":
                network = network_in(require_calibrated(cache, package, stage))
            else:
                assert precision != "float32"  # every backend runs it as it is
                network = network_in(graph_cache(cache).reduced(network.path, network.sha256, precision))
        return folded(cache, package.manifest, stage, network).path if fold else network.path

    return Networks(file, folded=fold)


def own_networks() -> Networks:
    """The networks as the package has them: for the reference, with which all others are compared."""
    return Networks(lambda package, stage, own, backend, precision: own, folded=False)


def emulated_networks(cache: Path, precision: Narrow) -> Networks:
    """Networks that compute in float32 and round as ``precision`` does: to measure on any CPU what it costs."""

    def file(package: ModelPackage, stage: StageSpec, own: Path, backend: Backend, _: Precision) -> Path:
        return graph_cache(cache).reduced(own, weights_sha256(package.manifest, stage), precision, emulate=True).path

    return Networks(file, folded=False)


def folded(cache: Path, manifest: Manifest, stage: StageSpec, network: Network) -> Network:
    """The network with what the manifest lets be folded in it; itself, when that is nothing."""
    folding = folding_of(manifest, stage)
    if not folding.changes:
        return network
    cached = graph_cache(cache).folded(network.path, network.sha256, stage.input_tensor, stage.output_tensor, folding)
    return network_in(cached)


def folding_of(manifest: Manifest, stage: StageSpec) -> Folding:
    """What of a stage's steps and of what is done with its output belongs into its network (``runtime.fold``)."""
    if not manifest.runtime.fold:
        return Folding((), None)
    kept = len(unfolded(stage).steps)
    scalings = tuple((step.scale, step.offset) for step in stage.steps[kept:] if isinstance(step, Affine))
    if stage.box is not None:
        return Folding(scalings, "above", stage.box.threshold)
    if stage is not manifest.stages[-1]:
        return Folding(scalings, None)
    if manifest.readout.kind == "labels":
        return Folding(scalings, "winner")
    if manifest.readout.kind == "threshold" and manifest.readout.restore == "nearest":
        return Folding(scalings, "above", manifest.readout.threshold)
    return Folding(scalings, None)


def unfolded(stage: StageSpec) -> StageSpec:
    """The stage with the steps that stay outside of its network: all but constant scalings at the end."""
    steps = list(stage.steps)
    while steps and isinstance(steps[-1], Affine):
        steps.pop()
    return stage.model_copy(update={"steps": steps})


def networks_of(cache: Path, package: ModelPackage) -> set[str]:
    """SHA-256 of the package's networks, and of all that were derived from them here; for display."""
    own = {weights.sha256 for weights in package.manifest.weights}
    if not (cache / "graphs").is_dir():
        return own
    return own.union(*(graph_cache(cache).made_of(sha256) for sha256 in own))


def place_of(package: ModelPackage, stage: StageSpec) -> str:
    """What calibrated networks are kept by; a version of a package never changes."""
    return f"{package.manifest.key}/{stage.name}"


def require_calibrated(cache: Path, package: ModelPackage, stage: StageSpec) -> Derived:
    """The int8 network of a stage, as it was last calibrated here.

    Raises
    ------
    BackendUnavailable
        It never was, or its file is damaged.
    """
    found = graph_cache(cache).calibrated(weights_sha256(package.manifest, stage), place_of(package, stage))
    if found is None:
        raise BackendUnavailable(
            f"{package.manifest.key} has not been calibrated for int8 here",
            mend=f"Give it images of this site: appliance models convert {package.manifest.key} --precision int8 "
            "--calibrate FOLDER",
        )
    return found
