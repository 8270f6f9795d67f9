"""The console role: metrics, health and status over HTTP."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.console.server import Console
from appliance.services.role import Lifecycle, Part, run_role


def run_console(settings: Settings, layout: StateLayout) -> int:
    """Run the console; return the exit code."""

    def build(lifecycle: Lifecycle) -> Sequence[Part]:
        return [Console(settings, layout, on_fatal=lifecycle.fail)]

    return run_role("console", settings, layout, build)
