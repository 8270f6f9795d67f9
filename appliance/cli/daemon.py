"""``appliance run`` and ``appliance role``."""

from __future__ import annotations

import sys
from pathlib import Path

from appliance.config.reader import read_settings
from appliance.errors import ConfigurationError
from appliance.observability.logs import set_up_logs
from appliance.services.role import prepare_state
from appliance.services.supervisor import Supervisor, role_names


def run(config: Path | None, state_dir: Path | None) -> int:
    """Run all roles until Ctrl-C or SIGTERM."""
    settings = read_settings(config)
    layout = prepare_state(settings, state_dir)
    set_up_logs("appliance", settings.logging.level)
    names = ", ".join(destination.name for destination in settings.destinations) or "none (results stay in the spool)"
    print(
        f"Receiving as {settings.dicom.ae_title} on {settings.dicom.host}:{settings.dicom.port}\n"
        f"Drop folder  {(settings.dropfolder.path or layout.dropfolder) if settings.dropfolder.enabled else 'off'}\n"
        f"Destinations {names}\n"
        f"Metrics      http://{settings.console.host}:{settings.console.port}/metrics\n"
        f"State        {layout.root}\n"
        "Ctrl-C stops.",
        file=sys.stderr,
    )
    return Supervisor(settings, config, layout.root).run()


def role(name: str, config: Path | None, state_dir: Path | None) -> int:
    """Run one role until SIGTERM."""
    settings = read_settings(config)
    if name not in role_names(settings):
        raise ConfigurationError("no such role", found=name, expected=" or ".join(role_names(settings)))
    layout = prepare_state(settings, state_dir)
    # Only what this role needs is imported: the receiver must not carry the inference runtimes.
    if name == "receiver":
        from appliance.services.receiver import run_receiver

        return run_receiver(settings, layout)
    if name == "sender":
        from appliance.services.sender import run_sender

        return run_sender(settings, layout)
    if name == "console":
        from appliance.services.console import run_console

        return run_console(settings, layout)
    from appliance.services.worker import run_worker

    return run_worker(name, settings, layout)
