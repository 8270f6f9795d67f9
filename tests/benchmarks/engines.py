"""Every model of this checkout on every backend and in every precision that this machine has, and its engines.

Beside what ``appliance models bench`` prints: which backend is the fastest for each model, by running all of them in
turn in one process, and the size and build time of each network's TensorRT engine.
"""

from __future__ import annotations

import sys
from typing import Any

from appliance.backends.engine_cache import engines_in
from appliance.cli.bench_rows import HEADER, measure_row, subjects_of
from appliance.cli.convert import convert_models
from appliance.config.layout import StateLayout
from appliance.errors import ApplianceError, BackendUnavailable
from appliance.modelrepo.package import ModelPackage
from appliance.modelrepo.repository import ModelRepository
from appliance.pipeline.benchmark import Subject, compare_apart
from tests.support.studies import REPOSITORY

STATE = REPOSITORY / ".cache" / "state"
THREADS = 2
"""Fixed, so that figures of machines with more cores can be compared."""


def measure_engines(seconds: float, names: list[str]) -> dict[str, Any]:
    """Measure, ``seconds`` for each line; print the tables as they grow and return all figures."""
    layout = StateLayout(STATE)
    packages = present(ModelRepository(REPOSITORY / "engines", layout.weights).select(names, everything=not names))
    rows, reasons = [], set()
    print(HEADER, flush=True)
    for package in packages:
        for subject in subjects_of(package, threads=THREADS, cache=layout.cache):
            if isinstance(subject, BackendUnavailable):
                reasons.add(str(subject))
                continue
            try:
                row = measure_row(subject, layout.verified, seconds, again=False)
            except ApplianceError as error:
                reasons.add(f"{subject}: {error}")
                continue
            print(row, flush=True)
            rows.append(row)
    for reason in sorted(reasons):
        print(f"left out: {reason}")
    print("\nAll backends in turn, in one process, in the precision of the manifest; median ms")
    order = {package.manifest.key: fastest(package, layout, seconds) for package in packages}
    print("\nTensorRT engines")
    return {"rows": [row.facts() for row in rows], "in_turn": order, "engines": engines(packages, layout)}


def present(packages: list[ModelPackage]) -> list[ModelPackage]:
    """Those whose weights and golden images are here; the others are named."""
    found = []
    for package in packages:
        try:
            package.require_presence()
        except ApplianceError as error:
            print(f"left out: {error}", file=sys.stderr)
        else:
            found.append(package)
    return found


def fastest(package: ModelPackage, layout: StateLayout, seconds: float) -> dict[str, float]:
    """Run all backends of a package in turn; say which is the fastest, and whether the manifest prefers it."""
    runtime = package.manifest.runtime
    subjects = [
        subject
        for subject in subjects_of(package, precisions=(runtime.precision,), threads=THREADS, cache=layout.cache)
        if isinstance(subject, Subject)
    ]
    medians = dict(zip([s.backend for s in subjects], compare_apart(subjects, seconds), strict=True))
    best = min(medians, key=lambda backend: medians[backend])
    preferred = next(backend for backend in runtime.backends if backend in medians)
    figures = ", ".join(f"{backend} {median:.1f}" for backend, median in medians.items())
    verdict = "as the manifest prefers" if best == preferred else f"the manifest prefers {preferred}"
    print(f"{package.manifest.key:28}{figures}: {best} is the fastest, {verdict}", flush=True)
    return {backend: round(median, 2) for backend, median in medians.items()}


def engines(packages: list[ModelPackage], layout: StateLayout) -> list[dict[str, Any]]:
    """Build what is not in the cache, and return what is known of each engine."""
    convert_models(
        None,
        layout.root,
        [package.manifest.key for package in packages],
        everything=False,
        time_limit_s=3600.0,
        memory_limit_bytes=4 << 30,
    )
    weights = {weights.sha256 for package in packages for weights in package.manifest.weights}
    wanted = ("network", "precision", "bytes", "build_seconds", "distribution", "version", "capabilities", "left_out")
    return [
        {name: info[name] for name in wanted if name in info}
        for info in engines_in(layout.engines)
        if info["onnx_sha256"] in weights
    ]
