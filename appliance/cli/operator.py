"""``appliance check-config``, ``status`` and ``requeue``: what an operator asks and does."""

from __future__ import annotations

import json
import time
from pathlib import Path

from appliance.config.layout import StateLayout
from appliance.config.reader import read_settings
from appliance.config.settings import Settings
from appliance.console.status import render_status, status_of
from appliance.errors import ConfigurationError, JournalError
from appliance.journal.hints import send_hint
from appliance.journal.journal import Journal
from appliance.services.models import repository
from appliance.services.role import state_of
from appliance.spool.spool import Spool


def check_config(config: Path | None) -> int:
    """Check the settings and the models they name; print one line when all is well."""
    settings = read_settings(config)
    # The state folder plays no part in which packages there are.
    repository(settings, StateLayout(Path())).active(settings.models.active)
    print(f"{config or 'the default settings'}: OK")
    return 0


def status(config: Path | None, state_dir: Path | None, *, as_json: bool) -> int:
    """Print what waits, what failed and why."""
    settings, layout, journal = _open(config, state_dir)
    found = status_of(journal, Spool(layout.spool), settings, layout)
    print(json.dumps(found, indent=2) if as_json else render_status(found))
    return 0


def requeue(
    config: Path | None,
    state_dir: Path | None,
    *,
    job: int | None,
    deliveries: bool,
    destination: str | None,
    procedure_steps: bool,
    commitments: bool,
) -> int:
    """Let a failed job run again, or failed deliveries, messages to the RIS and commitment reports go again."""
    if job is None and not deliveries and not procedure_steps and not commitments:
        raise ConfigurationError(
            "nothing to requeue is named", mend="Give --job N, --deliveries, --procedure-steps or --commitments"
        )
    _, layout, journal = _open(config, state_dir)
    now = time.time()
    if job is not None:
        if not journal.jobs.requeue(job, now):
            raise JournalError(
                f"job {job} is not failed or unsuitable, or a later revision of its series has a job of its own",
                mend="See the list of: appliance status, and its numbers",
            )
        send_hint(layout.run, "worker")
        print(f"job {job} is queued again")
    if deliveries:
        count = journal.deliveries.requeue(now, destination)
        send_hint(layout.run, "sender")
        print(f"{count} delivery(s) queued again")
    if procedure_steps:
        count = journal.step_messages.requeue(now)
        send_hint(layout.run, "sender")
        print(f"{count} message(s) to the RIS queued again")
    if commitments:
        count = journal.commitments.requeue(now)
        send_hint(layout.run, "sender")
        print(f"{count} storage commitment(s) are judged and reported again")
    return 0


def _open(config: Path | None, state_dir: Path | None) -> tuple[Settings, StateLayout, Journal]:
    settings = read_settings(config)
    layout = state_of(settings, state_dir)
    if not layout.journal.is_file():
        raise JournalError(
            f"there is no journal in {layout.root}", mend="Start the appliance there first: appliance run"
        )
    return settings, layout, Journal(layout.journal)
