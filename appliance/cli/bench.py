"""``appliance models bench``: how fast models run on this machine, next to the bare runtime; and the acceptance."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from appliance.backends.cuda_device import find_device
from appliance.backends.table import BACKENDS
from appliance.cli.acceptance import Acceptance
from appliance.cli.bench_rows import HEADER, PRECISIONS, Row, measure_row, subjects_of
from appliance.cli.convert import convert_models
from appliance.config.reader import read_settings
from appliance.errors import ApplianceError, BackendUnavailable
from appliance.manifest.manifest import BackendName, Precision
from appliance.pipeline.benchmark import growth_apart
from appliance.services.inference import thread_count
from appliance.services.models import repository
from appliance.services.role import prepare_state

_BUILD_LIMIT_S = 3600.0
_BUILD_MEMORY_BYTES = 4 << 30


def bench_models(
    config: Path | None,
    state_dir: Path | None,
    names: Sequence[str],
    *,
    everything: bool,
    backend: BackendName | None,
    precision: Precision | None,
    seconds: float,
    acceptance: bool,
    as_json: bool,
) -> int:
    """Measure packages on every backend and in every precision that this machine has; print a table as it goes.

    Parameters
    ----------
    seconds
        How long each line is measured.
    acceptance
        Build the engines first where a GPU is, take only the precision that serves, verify anew, look for leaks, and
        say PASS or FAIL of each.

    Returns 0; 1 when a check of the acceptance failed; or the exit code of the first model that could not be measured.
    """
    settings = read_settings(config)
    layout = prepare_state(settings, state_dir)
    packages = repository(settings, layout).select(names, everything=everything)
    report = Acceptance()
    if acceptance:
        _build_engines(report, config, state_dir, [package.manifest.key for package in packages], precision)
    rows: list[Row] = []
    left_out: list[str] = []
    code = 0
    if not as_json:
        print(HEADER, flush=True)
    for package in packages:
        before = len(report.checks)
        serving = (package.manifest.runtime.precision,) if acceptance else PRECISIONS
        for subject in subjects_of(
            package,
            backends=tuple(BACKENDS) if backend is None else (backend,),
            precisions=serving if precision is None else (precision,),
            threads=thread_count(settings),
            cache=layout.cache,
        ):
            if isinstance(subject, BackendUnavailable):
                left_out.append(str(subject))
                continue
            _say(f"{subject} …")
            try:
                row = measure_row(subject, layout.verified, seconds, again=acceptance)
                rows.append(row)
                if not as_json:
                    print(row, flush=True)
                if acceptance:
                    report.check_row(row)
                    report.check_growth(str(subject), growth_apart(subject, seconds))
            except BackendUnavailable as error:
                # Such as int8 that was not calibrated here, or an engine that is not for this GPU.
                left_out.append(f"{subject}: {error}")
            except ApplianceError as error:
                code = code or error.exit_code
                _say(f"appliance: {error}")
                if acceptance:
                    report.check(False, str(subject), str(error))
        if acceptance and len(report.checks) == before:
            report.check(False, package.manifest.key, "no backend can run it here")
    for reason in dict.fromkeys(left_out):
        _say(f"left out: {reason}")
    if acceptance and "tensorrt" not in {row.subject.backend for row in rows}:
        _miss_the_gpu(report, [reason for reason in dict.fromkeys(left_out) if "tensorrt" in reason])
    if as_json:
        print(json.dumps({"rows": [row.facts() for row in rows]} | (report.facts() if acceptance else {}), indent=2))
    elif acceptance:
        print(f"\n{report}")
    if acceptance:
        return 0 if report.passed else 1
    return code


def _miss_the_gpu(report: Acceptance, reasons: Sequence[str]) -> None:
    """No engine was run: a failure where a GPU is, something that cannot be proven where there is none."""
    device = find_device()
    if device is not None:
        report.check(False, f"GPU {device.name}", "; ".join(reasons) or "it was left out")
        return
    report.cannot_prove("that a GPU runs the models: there is none here, only the CPU backends were checked")


def _build_engines(
    report: Acceptance,
    config: Path | None,
    state_dir: Path | None,
    names: Sequence[str],
    precision: Precision | None,
) -> None:
    """Build the engines where TensorRT is; TensorRT-RTX does so without a GPU."""
    try:
        with redirect_stdout(sys.stderr):  # its table is not part of this one, nor of the JSON
            code = convert_models(
                config,
                state_dir,
                names,
                everything=False,
                precision=None if precision == "int8" else precision,  # int8 is built when it is calibrated
                time_limit_s=_BUILD_LIMIT_S,
                memory_limit_bytes=_BUILD_MEMORY_BYTES,
            )
    except BackendUnavailable as error:
        report.cannot_prove(f"that engines can be built: {error}")
    else:
        report.check(code == 0, "engines", "all are built" if code == 0 else "some cannot be built, see above")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
