"""``appliance backup`` and ``restore``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from appliance.backup.backup import make_backup
from appliance.backup.restore import restore_backup
from appliance.config.reader import read_settings
from appliance.errors import BackupError, JournalError
from appliance.services.role import state_of

_NICENESS = 10


def backup(config: Path | None, state_dir: Path | None, target: Path) -> int:
    """Make a backup, whether or not the appliance runs."""
    layout = state_of(read_settings(config), state_dir)
    if not layout.journal.is_file():
        raise JournalError(f"there is no journal in {layout.root}", mend="Name the state folder with --state-dir")
    if target.absolute().is_relative_to(layout.root):
        raise BackupError(f"{target} lies in the state folder", mend="Name a folder elsewhere, on another disk at best")
    os.nice(_NICENESS)  # reception and inference come first
    report = make_backup(layout.journal, layout.spool, target.absolute())
    found = report.manifest
    print(
        f"backup {found.generation} of {layout.root} in {target}: {found.files} file(s), {found.bytes >> 20} MiB; "
        f"{report.copied} of them ({report.copied_bytes >> 20} MiB) were new"
    )
    if report.missing:
        print(
            f"appliance: {report.missing} file(s) that the journal names are not in the spool, nor in the backup. "
            "See: appliance doctor",
            file=sys.stderr,
        )
        return BackupError.exit_code
    return 0


def restore(config: Path | None, state_dir: Path | None, source: Path) -> int:
    """Make a state folder from a backup."""
    layout = state_of(read_settings(config), state_dir)
    manifest = restore_backup(source.absolute(), layout)
    print(
        f"{layout.root} is as it was at {manifest.began_at}, or a little later: {manifest.files} file(s), every "
        "checksum compared. What has come or was done since is not in it: jobs that ran since run again and make the "
        "same objects, with the same UIDs, which are sent again. Weights: appliance models fetch"
    )
    return 0
