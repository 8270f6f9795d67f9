"""A state folder made from a backup, or nothing at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from appliance.backup.backup import stored_as
from appliance.backup.copying import copy, sync
from appliance.backup.manifest import Manifest, damaged, read_manifest, read_sums
from appliance.config.layout import StateLayout
from appliance.errors import BackupError
from appliance.journal.database import newest_schema
from appliance.spool.durable import ensure_folder, fsync_folder


def restore_backup(source: Path, layout: StateLayout) -> Manifest:
    """Copy a backup into a state folder that has neither journal nor spool; every checksum is compared on the way.

    The copy is made aside and gets its place when it is whole and on the disk. One that was cut short is begun again.

    Raises
    ------
    BackupError
        There is no backup, it is damaged or of a newer version, or the state folder is in use. Nothing was changed.
    OSError
        A disk failed or is full.
    """
    manifest = read_manifest(source)
    if manifest is None:
        raise BackupError(
            f"there is no backup in {source}",
            expected="the folder that was given to: appliance backup",
            mend="If the first backup there was cut short, there is nothing to restore",
        )
    if manifest.schema > newest_schema():
        raise BackupError(
            f"the backup in {source} is of a newer version",
            found=f"schema {manifest.schema}, made by {manifest.appliance}",
            expected=f"schema {newest_schema()} or older",
            mend="Install the appliance version that made it, or a newer one",
        )
    aside = layout.root / ".restoring"
    _require_empty(layout, aside)
    if aside.exists():
        shutil.rmtree(aside)
    ensure_folder(aside)
    try:
        _copy_all(source, manifest, aside)
        sync(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    # The journal last: with it the state folder is one.
    for folder in (layout.spool, layout.journal.parent):
        (aside / folder.name).rename(folder)
        fsync_folder(layout.root)
    aside.rmdir()
    return manifest


def _require_empty(layout: StateLayout, aside: Path) -> None:
    if aside.exists() and not layout.journal.exists() and layout.spool.exists():
        shutil.rmtree(layout.spool)  # of a restore that was cut short between the two
    for folder in (layout.journal.parent, layout.spool):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if folder.exists():
            raise BackupError(
                f"the state folder {layout.root} is in use",
                found=folder.name,
                expected="a state folder without journal and spool",
                mend="Name another one with --state-dir, or move what is there away",
            )


def _copy_all(source: Path, manifest: Manifest, aside: Path) -> None:
    wrong = count = 0
    for sha256, stored in read_sums(source, manifest):
        is_journal = stored == manifest.journal
        target = aside / "journal" / "journal.sqlite3" if is_journal else aside / "spool" / stored_as(stored)
        try:
            wrong += copy(source / stored, target) != sha256
        except FileNotFoundError:
            wrong += 1
        count += not is_journal
    if wrong or count != manifest.files:
        raise damaged(
            source,
            f"{wrong} file(s) missing or with another SHA-256; "
            f"they are named by: cd {source} && sha256sum --quiet -c {manifest.sums}",
        )
    ensure_folder(aside / "spool")
    ensure_folder(aside / "journal")
