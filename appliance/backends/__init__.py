"""Inference backends: one file per runtime behind one small base class.

Runtimes are made silent here, because this runs before any module of the package can import one. Both send what they
know of the machine and of its models to their makers as soon as they are imported, and leave an identifier in the
user's home: ONNX Runtime on Linux since 1.29 (its ``Privacy.md``), OpenVINO through ``openvino_telemetry``. An
appliance beside a scanner talks to nobody whom its settings do not name.
"""

from __future__ import annotations

import os
import sys

# Read once, when the library is loaded; disable_telemetry_events() would come after the first event.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# None lets an import fail (Python's import system, "The module cache"); OpenVINO then uses a stub that sends nothing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
