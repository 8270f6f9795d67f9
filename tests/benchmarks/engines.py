"""Every model of this checkout on every backend and in every precision that this machine has, and its engines.

Beside what ``appliance models bench`` prints: which backend is the fastest for each model, by running all of them in
turn in one process; what each reduced precision costs, on the CPU; and size and build time of the TensorRT engines.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from appliance.cli.bench_rows import HEADER, measure_row, subjects_of
from appliance.cli.convert import convert_models
from appliance.config.layout import StateLayout
from appliance.errors import ApplianceError, BackendUnavailable
from appliance.graphs.precision import Narrow
from appliance.manifest.manifest import Precision
from appliance.modelrepo.package import ModelPackage
from appliance.modelrepo.repository import ModelRepository
from appliance.pipeline.benchmark import Subject, compare_apart
from appliance.pipeline.networks import networks_of
from appliance.pipeline.rehearsal import reference_of, rehearse
from tests.support.studies import REPOSITORY, chest_study, head_study

LAYOUT = StateLayout(REPOSITORY / ".cache" / "state")
THREADS = 2
"""Fixed, so that figures of machines with more cores can be compared."""
NARROW: tuple[Narrow, ...] = ("float16", "bfloat16")


def measure_engines(seconds: float, names: list[str]) -> dict[str, object]:
    """Measure, ``seconds`` for each line; print the tables as they grow and return all figures."""
    packages = present(ModelRepository(REPOSITORY / "engines", LAYOUT.weights).select(names, everything=not names))
    print("Networks and engines in each precision", flush=True)
    losses = [row for package in packages for row in reduced(package)]
    engines = list(built(packages))
    print(f"\n{HEADER}", flush=True)
    rows = [row for package in packages for row in measured(package, seconds)]
    print("\nAll backends in turn, in one process, in the precision of the manifest; median ms")
    in_turn = {package.manifest.key: fastest(package, seconds) for package in packages}
    return {"rows": rows, "in_turn": in_turn, "reduced": losses, "engines": engines}


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


def reduced(package: ModelPackage) -> Iterator[dict[str, Any]]:
    """What float16 and bfloat16 cost on the golden images, whatever this CPU can compute."""
    for precision in NARROW:
        try:
            with reference_of(package, threads=THREADS, cache=LAYOUT.cache) as reference:
                found = rehearse(reference, precision, None, threads=THREADS, cache=LAYOUT.cache, progress=say)
        except ApplianceError as error:
            print(f"left out: {package.manifest.key} in {precision}: {error}", flush=True)
            continue
        print(f"{package.manifest.key:28}{precision:>10}  {found.summary()}", flush=True)
        yield {
            "model": package.manifest.key,
            "precision": precision,
            "passed": found.passed,
            "least_dice": found.least_dice,
            "largest_size_difference": found.largest_size_difference,
        }


def built(packages: list[ModelPackage]) -> Iterator[dict[str, Any]]:
    """Make every network and engine that is not in the cache; int8 calibrated on the public images."""
    keys = [package.manifest.key for package in packages]
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        convert(keys, None)
        for precision in NARROW:
            convert(keys, precision)
        try:
            head_study(Path(folder) / "head", "calibration")
        except RuntimeError as error:
            say(str(error))
        shared = REPOSITORY.parent / "shared" / "data"
        if shared.is_dir():
            for name in sorted(path.stem for path in (shared / "cxr_lungmasks" / "images").glob("*.png"))[:16]:
                chest_study(shared, Path(folder) / name, name, name)
        convert(keys, "int8", Path(folder))
    print(f"\n{'network':36}{'precision':>10}{'engine':>11}{'built in':>10}  compute capabilities")
    networks = set().union(*(networks_of(LAYOUT.cache, package) for package in packages))
    # The cache may hold engines of earlier versions and recipes too: the last of each counts.
    files = sorted(LAYOUT.engines.glob("*/engine.json"), key=lambda path: path.stat().st_mtime)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    newest = {(info["network"], info["precision"]): info for info in found if info["onnx_sha256"] in networks}
    for _, info in sorted(newest.items()):
        size, time = f"{info['bytes'] / 1e6:.1f} MB", f"{info['build_seconds']:.1f} s"
        print(f"{info['network']:36}{info['precision']:>10}{size:>11}{time:>10}  {', '.join(info['capabilities'])}")
        wanted = ("network", "precision", "bytes", "build_seconds", "distribution", "version", "capabilities")
        yield {name: info[name] for name in wanted}


def convert(keys: list[str], precision: Precision | None, calibrate: Path | None = None) -> None:
    """See ``appliance models convert``; what cannot be converted is said, and left out of the table."""
    try:
        convert_models(
            None,
            LAYOUT.root,
            keys,
            everything=False,
            precision=precision,
            calibrate=calibrate,
            time_limit_s=3600.0,
            memory_limit_bytes=4 << 30,
        )
    except ApplianceError as error:
        say(f"left out: {error}")


def measured(package: ModelPackage, seconds: float) -> Iterator[dict[str, Any]]:
    """A line for each backend and precision."""
    for subject in subjects_of(package, threads=THREADS, cache=LAYOUT.cache):
        try:
            if isinstance(subject, BackendUnavailable):
                raise subject
            row = measure_row(subject, LAYOUT.verified, seconds, again=False)
        except ApplianceError as error:
            say(f"left out: {error}")
            continue
        print(row, flush=True)
        yield row.facts()


def fastest(package: ModelPackage, seconds: float) -> dict[str, float]:
    """Run all backends of a package in turn; say which is the fastest, and whether the manifest prefers it."""
    runtime = package.manifest.runtime
    subjects = [
        subject
        for subject in subjects_of(package, precisions=(runtime.precision,), threads=THREADS, cache=LAYOUT.cache)
        if isinstance(subject, Subject)
    ]
    medians = dict(zip([s.backend for s in subjects], compare_apart(subjects, seconds), strict=True))
    best = min(medians, key=lambda backend: medians[backend])
    preferred = next(backend for backend in runtime.backends if backend in medians)
    figures = ", ".join(f"{backend} {median:.1f}" for backend, median in medians.items())
    verdict = "as the manifest prefers" if best == preferred else f"the manifest prefers {preferred}"
    print(f"{package.manifest.key:28}{figures}: {best} is the fastest, {verdict}", flush=True)
    return {backend: round(median, 2) for backend, median in medians.items()}


def say(text: str) -> None:
    """Progress, and what is left out."""
    print(text, file=sys.stderr, flush=True)
