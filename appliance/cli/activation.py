"""``appliance models activate``, ``deactivate`` and ``rollback``: which version of a model serves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.config.reader import read_settings
from appliance.journal.journal import Journal
from appliance.manifest.manifest import Precision
from appliance.services.activation import ModelChanges
from appliance.services.role import prepare_state

_NICE = 10


def activate(
    config: Path | None, state_dir: Path | None, wanted: str, *, shadow: bool, precision: Precision | None
) -> int:
    """Let a version serve, or run in the shadow, once it has passed its golden cases here."""
    # What the golden cases cost must not be taken from what serves.
    os.nice(_NICE)
    name = wanted.partition("/")[0]
    with _changes(config, state_dir) as changes:
        if shadow:
            version = changes.shadow(wanted, precision)
            print(f"{name}/{version.version} runs in the shadow, in {version.precision}; its results are not delivered")
            return 0
        version = changes.activate(wanted, precision)
        print(f"{name}/{version.version} is active, in {version.precision}; back: appliance models rollback {name}")
    return 0


def deactivate(config: Path | None, state_dir: Path | None, name: str, *, shadow: bool) -> int:
    """Let no version of a model serve, or only end its shadow."""
    with _changes(config, state_dir) as changes:
        if shadow:
            changed = changes.end_shadow(name)
            print(f"{name} has no shadow {'any more' if changed else 'anyway'}")
        else:
            changed = changes.deactivate(name)
            print(f"{name} is {'not active any more' if changed else 'not active anyway'}")
    return 0


def roll_back(config: Path | None, state_dir: Path | None, name: str) -> int:
    """Let the version serve that did so before."""
    with _changes(config, state_dir) as changes:
        version = changes.roll_back(name)
        print(f"{name}/{version.version} is active again, in {version.precision}")
    return 0


@contextmanager
def _changes(config: Path | None, state_dir: Path | None) -> Iterator[ModelChanges]:
    settings = read_settings(config)
    layout = prepare_state(settings, state_dir)
    journal = Journal(layout.journal)
    try:
        yield ModelChanges(settings, layout, journal, lambda line: print(line, file=sys.stderr, flush=True))
    finally:
        journal.close()
