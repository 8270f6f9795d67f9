"""A backup of a state folder that is in use.

First the journal, as it is at one moment; then the files that this copy names. They never change, so that it does not
matter when they are copied; only retention may remove some meanwhile. Then the journal is copied once more, and what is
new since: little, so that nothing is missing after a few rounds.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance.backup.copying import copy, sync
from appliance.backup.manifest import MANIFEST, Manifest, encode_sums, read_manifest, read_sums, write_manifest
from appliance.errors import BackupError
from appliance.journal.snapshot import Snapshot, take_snapshot
from appliance.spool.durable import ensure_folder, write_durably
from appliance.version import __version__


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup did: how many files had to be copied for it, and how many that the journal names are not there."""

    manifest: Manifest
    copied: int
    copied_bytes: int
    missing: int


def make_backup(journal: Path, spool: Path, target: Path) -> BackupReport:
    """Make the first or a further backup in ``target``; a further one copies what has come since.

    Raises
    ------
    BackupError
        The folder holds something else.
    JournalError
        The journal cannot be read.
    OSError
        A disk failed or is full. The earlier backup in the folder is whole still.
    """
    before = _earlier(target)
    ensure_folder(target / "spool")
    generation = 1 if before is None else before.generation + 1
    known = {} if before is None else {path: sha256 for sha256, path in read_sums(target, before)}
    began_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    name = f"journal-{generation}.sqlite3"
    copies = _Copies(spool, target, known, generation)
    missing: set[str] | None = None
    while True:
        snapshot = take_snapshot(journal, target / name)
        found_missing = copies.add(snapshot)
        # What a later copy of the journal names still was not removed by retention: it is lost.
        if not found_missing or found_missing == missing:
            break
        missing = found_missing
    entries = copies.entries(snapshot)
    sums = encode_sums([(_sha256(target / name), name), *entries])
    sums_name = f"SHA256SUMS-{generation}"
    write_durably(target / sums_name, sums)
    sync(target)
    manifest = Manifest(
        generation=generation,
        appliance=__version__,
        schema=snapshot.schema,
        began_at=began_at,
        journal=name,
        sums=sums_name,
        sums_sha256=hashlib.sha256(sums).hexdigest(),
        files=len(entries),
        bytes=sum((target / path).stat().st_size for _, path in entries),
    )
    write_manifest(target, manifest)
    _remove_others(target, {MANIFEST, name, sums_name, *(path for _, path in entries)})
    return BackupReport(manifest, copies.copied, copies.copied_bytes, len(found_missing))


class _Copies:
    """The files of a backup as they are copied; ``known`` are paths in the target and their checksums."""

    def __init__(self, spool: Path, target: Path, known: dict[str, str], generation: int) -> None:
        self._spool = spool
        self._target = target
        self._generation = generation
        self._stored: dict[str, str] = {stored_as(path): path for path in known if path.startswith("spool/")}
        self._sums = known
        self._checked: set[str] = set()
        self.copied = self.copied_bytes = 0

    def add(self, snapshot: Snapshot) -> set[str]:
        """Copy what is not here yet; return the files that have to be there and are not."""
        for path in snapshot.rejected():
            self._add(path)
        return {path for path in snapshot.paths() if not self._add(path)}

    def entries(self, snapshot: Snapshot) -> list[tuple[str, str]]:
        """Checksum and path in the target of each file that the snapshot names and that is there."""
        named = itertools.chain(snapshot.paths(), snapshot.rejected())
        stored = (self._stored[path] for path in named if path in self._checked)
        return [(self._sums[path], path) for path in stored]

    def _add(self, path: str) -> bool:
        if path in self._checked:
            return True
        source = self._spool / path
        try:
            status = source.stat()
            stored = self._stored.get(path)
            if stored is None or not _is_copy(self._target / stored, status.st_size, status.st_mtime_ns):
                # Another file under a known path is stored beside it: the earlier backup stays whole until this one is.
                taken = stored is not None or (self._target / "spool" / path).exists()
                stored = f"spool/{path}~{self._generation}" if taken else f"spool/{path}"
                self._sums[stored] = copy(source, self._target / stored)
                self._stored[path] = stored
                self.copied += 1
                self.copied_bytes += status.st_size
        except FileNotFoundError:
            return False
        self._checked.add(path)
        return True


def stored_as(stored: str) -> str:
    """The path in the spool of a file that a backup holds as ``stored``."""
    return stored.removeprefix("spool/").partition("~")[0]


def _earlier(target: Path) -> Manifest | None:
    manifest = read_manifest(target)
    # A backup that was cut short before its manifest is taken up again.
    ours = ("spool", "journal-1.sqlite3", "SHA256SUMS-1", ".")
    if manifest is None and target.is_dir() and any(not path.name.startswith(ours) for path in target.iterdir()):
        raise BackupError(
            f"{target} holds something that is no backup",
            expected="an empty folder, or one with an earlier backup of this appliance",
            mend="Name another folder",
        )
    return manifest


def _is_copy(path: Path, size: int, mtime_ns: int) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return (status.st_size, status.st_mtime_ns) == (size, mtime_ns)


def _remove_others(target: Path, wanted: set[str]) -> None:
    """Remove what earlier backups had and this one does not."""
    for path in list(_files(target)):
        if path.relative_to(target).as_posix() not in wanted:
            path.unlink()
    for folder in sorted((path for path in (target / "spool").rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
