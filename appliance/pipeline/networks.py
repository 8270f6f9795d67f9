"""Which file a backend is given for a stage: the package's own network, or one that is derived from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from appliance.backends.base import Backend
from appliance.errors import BackendUnavailable
from appliance.graphs.graph_cache import GraphCache
from appliance.graphs.precision import Narrow
from appliance.manifest.manifest import Precision, StageSpec
from appliance.modelrepo.package import ModelPackage, weights_sha256
from appliance.spool.derived import Derived

Networks = Callable[[ModelPackage, StageSpec, Path, Backend, Precision], Path]
"""Called with the package's own file for the stage; returns the file that the backend opens."""


def graph_cache(cache: Path) -> GraphCache:
    """Derived networks below the cache of the state folder."""
    return GraphCache(cache / "graphs")


def served_networks(cache: Path) -> Networks:
    """The networks that serve: rewritten where the backend cannot reduce the precision by itself.

    What is returned raises ``BackendUnavailable`` when there is no int8 network yet, and ``ModelPackageError`` when the
    network bears no reduction.
    """

    def network(package: ModelPackage, stage: StageSpec, own: Path, backend: Backend, precision: Precision) -> Path:
        if precision not in backend.rewritten:
            return own
        sha256 = weights_sha256(package.manifest, stage)
        if precision == "int8":
            return require_calibrated(cache, package, stage).path
        assert precision != "float32"  # every backend runs it as it is
        return graph_cache(cache).reduced(own, sha256, precision).path

    return network


def emulated_networks(cache: Path, precision: Narrow) -> Networks:
    """Networks that compute in float32 and round as ``precision`` does: to measure on any CPU what it costs."""

    def network(package: ModelPackage, stage: StageSpec, own: Path, backend: Backend, _: Precision) -> Path:
        return graph_cache(cache).reduced(own, weights_sha256(package.manifest, stage), precision, emulate=True).path

    return network


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
