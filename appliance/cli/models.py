"""``appliance models list`` and ``models fetch``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from appliance.config.reader import read_settings
from appliance.errors import ApplianceError, ConfigurationError
from appliance.modelrepo.fetch import fetch
from appliance.services.models import active_models, repository
from appliance.services.role import state_of


def list_models(config: Path | None, state_dir: Path | None, *, as_json: bool) -> int:
    """Print all packages, and whether they can run here."""
    settings = read_settings(config)
    layout = state_of(settings, state_dir)
    packages = repository(settings, layout)
    active = {package.manifest.key for package in active_models(settings, layout).packages}
    rows = []
    for package in packages.packages:
        manifest = package.manifest
        try:
            package.require_weights()
            state, reason = ("active" if manifest.key in active else "ready"), None
        except ApplianceError as error:
            state, reason = "unavailable", str(error)
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


def fetch_models(
    config: Path | None, state_dir: Path | None, names: Sequence[str], *, everything: bool, source: Path | None
) -> int:
    """Get and convert the weights of the named packages, or of all."""
    if bool(names) == everything:
        raise ConfigurationError("which models?", mend="Name them, or give --all")
    settings = read_settings(config)
    packages = repository(settings, state_of(settings, state_dir))
    wanted = packages.active(None) if everything else [packages.find(name) for name in names]
    for package in wanted:
        fetch(package, source=source, progress=print)
    return 0
