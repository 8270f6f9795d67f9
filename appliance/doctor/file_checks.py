"""Journal against spool: each row has its file, each file has its row."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.doctor.finding import Finding, Verdict, well
from appliance.errors import RejectedInput
from appliance.intake.part10 import scan_file
from appliance.journal.inspection import NamedFile
from appliance.journal.journal import Journal
from appliance.spool.durable import fsync_file
from appliance.spool.spool import Spool

_NAMED = 3
"""How many are named in a line."""


class FileChecks:
    """Compares a journal with its spool.

    Parameters
    ----------
    repair
        Only while no role runs.
    deep
        Whether the bytes of every file are summed; otherwise only sizes are compared.
    max_instance_bytes
        Larger files are not taken in.
    """

    def __init__(self, journal: Journal, spool: Spool, *, repair: bool, deep: bool, max_instance_bytes: int) -> None:
        self._journal = journal
        self._spool = spool
        self._repair = repair
        self._deep = deep
        self._max_instance_bytes = max_instance_bytes

    def run(self) -> Iterator[Finding]:
        """Look at all of them."""
        missing: list[NamedFile] = []
        changed: list[NamedFile] = []
        count = 0
        for file in self._journal.inspection.files():
            count += 1
            match self._state_of(file):
                case "missing":
                    missing.append(file)
                case "changed":
                    changed.append(file)
        lost = [file for file in missing if file.kind == "image"]
        gone = [file for file in missing if file.kind == "result"]
        summed = "bytes summed" if self._deep else "sizes compared; --deep sums their bytes"
        yield well("files", f"{count} named by the journal, {summed}")
        yield from self._lost(lost)
        if gone:
            yield self._gone(gone)
        if changed:
            yield _changed(changed)
        yield self._orphans()
        yield self._leftover_results()

    def _state_of(self, file: NamedFile) -> str:
        path = self._spool.absolute(file.path)
        try:
            if path.stat().st_size != file.bytes:
                return "changed"
            if self._deep and _sum(path, file, self._max_instance_bytes) != file.sha256:
                return "changed"
        except FileNotFoundError:
            with self._journal.tombstones.names() as names:  # it may have been deleted with its row meanwhile
                needed = names.has(file.path if file.kind == "image" else f"results/{file.owner_id}")
            return "missing" if needed and not path.exists() else "well"
        return "well"

    def _lost(self, lost: list[NamedFile]) -> Iterator[Finding]:
        inspection = self._journal.inspection
        known = inspection.lost()
        found_again = known - {file.row_id for file in lost}
        if self._repair and found_again:
            for instance_id in found_again:
                self._journal.instances.found(instance_id)
            yield Finding(Verdict.MENDED, "lost images", f"{len(found_again)} are there again", "", "Noted")
        if not lost:
            return
        if self._repair:
            for file in lost:
                inspection.mark_lost(file.row_id, time.time())
        series = sorted({file.owner_id for file in lost})
        yield Finding(
            Verdict.WRONG,
            "images",
            f"the files of {len(lost)} are gone; they belong to series {_some(series)}",
            "every image that was acknowledged",
            "Send these series again from the modality or the PACS: images that are gone get their place, the others "
            "are known. Or copy their files from a backup to the same place in spool/. Then look for why: a disk that "
            "fails, or somebody who cleaned up. "
            + ("They are noted: appliance status names them" if self._repair else ""),
        )

    def _gone(self, gone: list[NamedFile]) -> Finding:
        jobs = sorted({file.owner_id for file in gone})
        return Finding(
            Verdict.WRONG,
            "results",
            f"the files of {len(gone)} are gone; they were made by job {_some(jobs)}",
            "every result",
            "What was delivered is with its destinations; what was not fails there. Copy spool/results/JOB from a "
            "backup, or have the PACS send the images again under new UIDs",
        )

    def _orphans(self) -> Finding:
        found = [path for path in _files_below(self._spool.instances) if path.is_file() and self._is_orphan(path)]
        if not found:
            return well("images without a row", "none")
        handed = [path for path in found if self._repair and self._hand_over(path)]
        left = [path for path in found if path not in handed]
        names = _some([self._spool.relative(path) for path in left or handed])
        if not left:
            return Finding(
                Verdict.MENDED,
                "images without a row",
                f"{len(handed)}: {names}",
                "none",
                "Put into spool/incoming as if they had just arrived: the receiver registers them when it starts",
            )
        return Finding(
            Verdict.WRONG,
            "images without a row",
            f"{len(left)}: {names}",
            "none",
            "They are no DICOM files that can be taken: look at them, then remove them by hand"
            if self._repair
            else "Stop the appliance, then: appliance doctor --repair has them registered again",
        )

    def _is_orphan(self, path: Path) -> bool:
        relative = self._spool.relative(path)
        known = self._journal.instances.find(path.stem)
        if known is not None and known.path == relative:
            return False
        folder = relative.rpartition("/")[0]
        try:
            inode = path.stat().st_ino
        except FileNotFoundError:
            return False
        if self._spool.incoming.has(inode):
            return False  # it is just being registered, or will be at the next start
        if any(stone.path == folder for stone in self._journal.tombstones.waiting()):
            return False  # its deletion is under way
        with self._journal.tombstones.names() as names:
            return not names.has(relative) and path.exists()

    def _hand_over(self, path: Path) -> bool:
        try:
            scanned = scan_file(path, max_bytes=self._max_instance_bytes)
        except RejectedInput:
            return False
        place = self._spool.instance_path(
            scanned.study_instance_uid, scanned.series_instance_uid, scanned.sop_instance_uid
        )
        if place != path or self._journal.instances.find(scanned.sop_instance_uid) is not None:
            return False
        fsync_file(path)
        self._spool.incoming.take_in(path)
        return True

    def _leftover_results(self) -> Finding:
        left = []
        for folder in self._spool.results.iterdir():
            relative = self._spool.relative(folder)
            with self._journal.tombstones.names() as names:
                needed = names.has(relative)
            if not needed and all(stone.path != relative for stone in self._journal.tombstones.waiting()):
                left.append(relative)
        if not left:
            return well("results without a job", "none")
        return Finding(
            Verdict.NOTE,
            "results without a job",
            f"{len(left)}: {_some(left)}",
            "none",
            "Nothing names them any more: they may be removed by hand",
        )


def _files_below(folder: Path) -> Iterator[Path]:
    """All files; folders that are removed meanwhile, as retention does, are passed over (``rglob`` would raise)."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _changed(changed: list[NamedFile]) -> Finding:
    names = _some([f"{file.kind} of {'series' if file.kind == 'image' else 'job'} {file.owner_id}" for file in changed])
    return Finding(
        Verdict.WRONG,
        "files",
        f"{len(changed)} are not as they were written: {names}",
        "files never change",
        "The disk fails, or somebody changed them. Look at the disk (dmesg, smartctl). Copy the files from a backup, "
        "or remove them and send the series again",
    )


def _sum(path: Path, file: NamedFile, max_bytes: int) -> str:
    try:
        offset = scan_file(path, max_bytes=max_bytes).data_set_offset if file.kind == "image" else 0
    except RejectedInput:
        return ""
    with path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        stream.seek(offset)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _some(names: list[int] | list[str]) -> str:
    shown = ", ".join(str(name) for name in itertools.islice(names, _NAMED))
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
