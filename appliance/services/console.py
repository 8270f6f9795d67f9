"""The console role: metrics, health and status over HTTP; and the keeper, which deletes what is old.

The keeper is here because this role is on no image's way: however long a deletion takes its process or its Python
lock, reception, inference and delivery have theirs for themselves. It needs nothing of them but the journal.
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.console.server import Console
from appliance.journal.journal import Journal
from appliance.observability.metrics import Metrics
from appliance.retention.keeper import Keeper
from appliance.services.role import Lifecycle, Part, run_role
from appliance.spool.spool import Spool


def run_console(settings: Settings, layout: StateLayout) -> int:
    """Run the console; return the exit code."""

    def build(lifecycle: Lifecycle) -> Sequence[Part]:
        spool = Spool(layout.spool)
        keeper = Keeper(
            settings,
            Journal(layout.journal),
            spool,
            Metrics.for_role("console", layout.metrics),
            on_fatal=lifecycle.fail,
        )
        return [Console(settings, layout, on_fatal=lifecycle.fail), keeper]

    return run_role("console", settings, layout, build)
