"""``appliance models list``, ``show``, ``fetch`` and ``verify``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from appliance.backends.engine_cache import engines_in
from appliance.config.layout import StateLayout
from appliance.config.reader import read_settings
from appliance.errors import ApplianceError, ModelPackageError
from appliance.journal.journal import Journal
from appliance.journal.records import ActivationEvent
from appliance.manifest.manifest import BackendName, Precision
from appliance.modelrepo.fetch import fetch
from appliance.modelrepo.golden_images import fetch_golden_images
from appliance.modelrepo.package import ModelPackage
from appliance.pipeline.model import Model
from appliance.pipeline.networks import networks_of
from appliance.pipeline.verification import Verification
from appliance.services.inference import thread_count, verifier
from appliance.services.models import ActiveModels, models_at_rest, repository, weights_arrived
from appliance.services.role import prepare_state, state_of

_HISTORY = 10


def list_models(config: Path | None, state_dir: Path | None, *, as_json: bool) -> int:
    """Print all packages, and whether they can run here."""
    settings = read_settings(config)
    layout = state_of(settings, state_dir)
    packages = repository(settings, layout)
    models = models_at_rest(settings, layout)
    rows = []
    for package in packages.packages:
        manifest = package.manifest
        state, reason = _state(package, models)
        rows.append({"name": manifest.name, "version": manifest.version, "state": state, "scope": str(manifest.scope),
                     "title": manifest.title, "reason": reason})  # fmt: skip
    rows += [
        {"name": broken.name, "version": broken.version, "state": "broken", "scope": None, "title": None,
         "reason": str(broken.error)}
        for broken in packages.broken
    ]  # fmt: skip
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['name']:28} {row['version']:8} {row['state']:12} {row['title'] or ''}")
        if row["reason"]:
            print(f"    {row['reason']}")
    return 0


def show_model(config: Path | None, state_dir: Path | None, name: str, *, as_json: bool) -> int:
    """Print what is known of one package: what it is, whether it can run, how it was verified here, its engines."""
    settings = read_settings(config)
    layout = state_of(settings, state_dir)
    package = repository(settings, layout).find(name)
    state, reason = _state(package, models_at_rest(settings, layout))
    known = verifier(settings, layout).known(package)
    history = _history(package.manifest.name, layout)
    if as_json:
        facts = _facts(package, state, reason, known, layout)
        print(json.dumps(facts | {"history": [asdict(event) for event in history]}, indent=2))
        return 0
    manifest = package.manifest
    print(f"{manifest.key}: {manifest.title}")
    for title, text in {
        "state": f"{state}: {reason}" if reason else state,
        "algorithm": f"{manifest.algorithm.name} {manifest.algorithm.version}, {manifest.algorithm.manufacturer}",
        "use": manifest.intended_use,
        "licence": manifest.licence,
        "runs on": f"{', '.join(manifest.runtime.backends)}, {manifest.runtime.precision}",
        "card": str(package.folder / "MODEL_CARD.md"),
    }.items():
        print(f"    {title:12}{text}")
    for weights in manifest.weights:
        print(f"    {'weights':12}{weights.file}, SHA-256 {weights.sha256}")
    for case in manifest.golden:
        print(f"    {'golden case':12}{case.name}")
    if not known:
        print(f"    {'verified':12}not yet on this machine: appliance models verify {manifest.key}")
    for verification in known:
        print_verification(verification)
    for event in history:
        shadow = "" if event.shadow is None else f"; in the shadow {event.shadow}"
        print(f"    {'history':12}{_when(event.at)} {event.event}: {event.active or 'none'} serves{shadow}")
    for engine in _engines(package, layout):
        capabilities = ", ".join(engine["capabilities"]) or "this GPU"
        built = f"{engine['precision']}, {engine['distribution']} {engine['version']}, {engine['bytes'] / 1e6:.1f} MB"
        print(f"    {'engine':12}{engine['network']}: {built}, for {capabilities}")
    return 0


def print_verification(verification: Verification) -> None:
    """Print the figures of a verification, a line for each structure."""
    when = _when(verification.verified_at)
    print(f"    {'verified':12}{verification.backend}, {verification.precision}, {when}: {verification.summary()}")
    for case in verification.cases:
        difference = "" if case.output_difference is None else f", output within {case.output_difference:.2g}"
        print(f"        {case.case}{difference}")
        for agreement in case.agreements:
            measured = "".join(
                f"  {found.quantity} {found.value:.6g} (expected {found.expected:.6g} within {found.tolerance:.1%})"
                for found in case.measured
                if found.structure == agreement.structure
            )
            print(
                f"            {agreement.structure:28}Dice {agreement.dice:.4f}"
                f"  size {agreement.size_difference:+.3%}{measured}"
            )
        for failure in case.failures:
            print(f"            FAILED {failure}")


def fetch_models(
    config: Path | None, state_dir: Path | None, names: Sequence[str], *, everything: bool, source: Path | None
) -> int:
    """Get the weights and golden images of the named packages, or of all.

    Returns 0, or the exit code of the first package that could not be fetched; the others are fetched all the same.
    """
    settings = read_settings(config)
    layout = state_of(settings, state_dir)
    code = 0
    for package in repository(settings, layout).select(names, everything=everything):
        try:
            fetched = fetch(package, source=source, progress=print)
            if fetch_golden_images(package, source=source, progress=print) or fetched:
                weights_arrived(layout, package.manifest.name)
        except ModelPackageError as error:
            print(f"appliance: {error}", file=sys.stderr)
            code = code or error.exit_code
    return code


def verify_models(
    config: Path | None,
    state_dir: Path | None,
    names: Sequence[str],
    *,
    everything: bool,
    backend: BackendName | None,
    precision: Precision | None,
    again: bool,
    as_json: bool,
) -> int:
    """Judge the golden images of the packages on this machine, and print the figures.

    Returns 0, or the exit code of the first package that failed or cannot run.
    """
    settings = read_settings(config)
    layout = prepare_state(settings, state_dir)
    found: list[Verification] = []
    gates = verifier(settings, layout, progress=_say, observe=found.append)
    code = 0
    for package in repository(settings, layout).select(names, everything=everything):
        model = Model(
            package,
            threads=thread_count(settings),
            cache=layout.cache,
            backends=None if backend is None else [backend],
            precision=precision,
        )
        try:
            model.open(gates.require_anew if again else gates.require)
        except ApplianceError as error:
            _say(f"appliance: {error}")
            code = code or error.exit_code
        finally:
            model.close()
    if as_json:
        print(json.dumps([_verification(verification) for verification in found], indent=2))
        return code
    for verification in found:
        print(verification.model)
        print_verification(verification)
    return code


def _state(package: ModelPackage, models: ActiveModels) -> tuple[str, str | None]:
    """Whether a package is used, or could be, and why not."""
    if points := package.manifest.open_points:
        return "not ready", f"{len(points)} open point(s): {'; '.join(points)}"
    try:
        package.require_weights()
        package.require_golden()
    except ApplianceError as error:
        return "unavailable", str(error)
    used = {found.shadow for found in models.models if found.manifest.key == package.manifest.key}
    return "active" if False in used else "shadow" if True in used else "ready", None


def _history(name: str, layout: StateLayout) -> list[ActivationEvent]:
    """The newest changes of what serves, newest first; nothing before the appliance has run."""
    if not layout.journal.is_file():
        return []
    journal = Journal(layout.journal)
    try:
        return journal.activations.history(name, _HISTORY)
    finally:
        journal.close()


def _when(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")


def _facts(
    package: ModelPackage, state: str, reason: str | None, known: Sequence[Verification], layout: StateLayout
) -> dict[str, Any]:
    manifest = package.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "title": manifest.title,
        "state": state,
        "reason": reason,
        "algorithm": manifest.algorithm.model_dump(mode="json"),
        "intended_use": manifest.intended_use,
        "licence": manifest.licence,
        "runtime": manifest.runtime.model_dump(mode="json"),
        "weights": {weights.file: weights.sha256 for weights in manifest.weights},
        "golden": [case.name for case in manifest.golden],
        "verifications": [_verification(verification) for verification in known],
        "engines": _engines(package, layout),
    }


def _verification(verification: Verification) -> dict[str, Any]:
    return verification.model_dump(mode="json") | {
        "passed": verification.passed,
        "least_dice": verification.least_dice,
        "largest_size_difference": verification.largest_size_difference,
    }


def _engines(package: ModelPackage, layout: StateLayout) -> list[dict[str, Any]]:
    """What the cache says of the engines that were built from a package's networks, and from those derived of them."""
    networks = networks_of(layout.cache, package)
    return [info for info in engines_in(layout.engines) if info["onnx_sha256"] in networks]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
