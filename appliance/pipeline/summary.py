"""A result as JSON: for the journal, the command line and programs. No identifying data."""

from __future__ import annotations

from typing import Any

from appliance.domain.codes import Code
from appliance.domain.result import InferenceResult, Measurement


def summary_of(result: InferenceResult) -> dict[str, Any]:
    """Return algorithm, findings, overall measurements and notes as plain values."""
    return {
        "title": result.title,
        "algorithm": {
            "name": result.algorithm.name,
            "version": result.algorithm.version,
            "parameters": dict(result.algorithm.parameters),
        },
        "intended_use": result.intended_use,
        "findings": [
            {
                "tracking_id": finding.tracking_id,
                "finding": _code(finding.finding),
                "laterality": _code(finding.laterality),
                "measurements": [_measurement(measurement) for measurement in finding.measurements],
            }
            for finding in result.findings
        ],
        "overall": [_measurement(measurement) for measurement in result.overall],
        "notes": list(result.notes),
    }


def _code(code: Code | None) -> dict[str, str] | None:
    return None if code is None else {"value": code.value, "scheme": code.scheme, "meaning": code.meaning}


def _measurement(measurement: Measurement) -> dict[str, Any]:
    return {
        "concept": _code(measurement.concept),
        "value": measurement.value,
        "unit": measurement.unit.value,
        "shown": measurement.shown(),
    }
