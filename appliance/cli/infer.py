"""``appliance infer``: the same pipeline on a folder of files, without the daemon."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection
from pathlib import Path

from appliance.cli.units import Unit, units_in
from appliance.config.layout import StateLayout
from appliance.config.reader import read_settings
from appliance.config.settings import Settings
from appliance.domain.forms import Form
from appliance.errors import UnsuitableImage
from appliance.manifest.manifest import Precision
from appliance.modelrepo.package import ModelPackage
from appliance.pipeline.encoding import encode
from appliance.pipeline.model import Model
from appliance.services.inference import thread_count, verifier
from appliance.services.models import models_at_rest, repository
from appliance.services.role import state_of
from appliance.spool.durable import ensure_folder

_EXIT_UNSUITABLE = UnsuitableImage.exit_code


def infer(
    folder: Path,
    model_name: str,
    output: Path,
    config: Path | None,
    state_dir: Path | None,
    *,
    forms: Collection[Form],
    as_json: bool,
) -> int:
    """Run a model on every image or series below ``folder`` that it wants; write the result objects to ``output``.

    Returns 0 when at least one was judged, else the exit code of unsuitable input.
    """
    settings = read_settings(config)
    layout = state_of(settings, state_dir)
    package, precision = _wanted(settings, layout, model_name)
    model = Model(package, threads=thread_count(settings), cache=layout.cache, precision=precision)
    units = units_in(folder, model.manifest.scope, max_bytes=settings.dicom.max_instance_bytes, say=_say)
    wanted, refusals = [], []
    for unit in units:
        reason = unit.refusal(model.manifest.match)
        if reason is None:
            wanted.append(unit)
        else:
            refusals.append(reason)
    results = []
    if wanted:
        _say(f"opening {model.manifest.key}")
        model.open(verifier(settings, layout).recall)
    for number, unit in enumerate(wanted, start=1):
        _say(f"{number} of {len(wanted)}: {unit.images} image(s)")
        try:
            results.append(_judge(model, unit, output / str(number), settings, forms))
        except UnsuitableImage as error:
            refusals.append(str(error))
    for reason in sorted(set(refusals)):
        _say(f"not judged ({refusals.count(reason)}): {reason}")
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        for result in results:
            _show(result)
    if not results:
        _say("nothing was judged" if units else f"there are no DICOM images below {folder}")
    return 0 if results else _EXIT_UNSUITABLE


def _wanted(settings: Settings, layout: StateLayout, name: str) -> tuple[ModelPackage, Precision | None]:
    """What serves under this name; where nothing does, or a version is named, the package as its manifest has it."""
    for serving in models_at_rest(settings, layout).models:
        if serving.manifest.name == name and not serving.shadow:
            return serving.package, serving.precision
    return repository(settings, layout).find(name), None


def _judge(model: Model, unit: Unit, folder: Path, settings: Settings, forms: Collection[Form]) -> dict[str, object]:
    started = time.monotonic()
    stages: dict[str, float] = {}
    loaded = model.load(unit.paths)
    stages["load"] = time.monotonic() - started
    result = model.judge(loaded.image, stages)
    ensure_folder(folder.absolute())
    writing = time.monotonic()
    encoded = encode(
        result,
        loaded.datasets,
        folder,
        model_key=model.manifest.key,
        scope=model.manifest.scope,
        shadow=False,
        revision=1,
        created_at=time.time(),
        device_serial=settings.device_serial,
        predecessor=None,
        path_of=str,
        forms=forms,
        language=settings.report.language,
    )
    stages["write"] = time.monotonic() - writing
    summary: dict[str, object] = json.loads(encoded.summary)
    return summary | {
        "files": [{"kind": row.kind, "path": row.path} for row in encoded.rows],
        "seconds": {stage: round(seconds, 4) for stage, seconds in stages.items()},
    }


def _show(result: dict[str, object]) -> None:
    """Print one result for people."""
    summary = json.loads(json.dumps(result))
    print(summary["title"])
    for finding in summary["findings"]:
        side = f", {finding['laterality']['meaning']}" if finding["laterality"] else ""
        for measurement in finding["measurements"]:
            _show_measurement(f"{finding['finding']['meaning']}{side}", measurement)
    for measurement in summary["overall"]:
        _show_measurement("Overall", measurement)
    for entry in summary["files"]:
        print(f"    {entry['kind']:4} {entry['path']}")


def _show_measurement(of: str, measurement: dict[str, object]) -> None:
    concept = measurement["concept"]
    assert isinstance(concept, dict)
    print(f"    {of}: {concept['meaning']} {measurement['shown']}")


def _say(text: str) -> None:
    """Progress and refusals go to standard error, so that the results can be piped."""
    print(text, file=sys.stderr, flush=True)
