"""The folders of the spool, and who may put what where.

Names inside the spool hold UIDs; nothing outside it does. UIDs are checked by the caller (``is_valid_uid``) before
they come here, because they become paths.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from appliance.errors import SpoolFull
from appliance.spool.durable import ensure_folder, fsync_file, fsync_folder, rename_into
from appliance.spool.incoming import IncomingFolder


class Spool:
    """The spool below one folder.

    Attributes
    ----------
    incoming
        Files that are being received, and those promised that the journal may not have on the disk yet.
    instances
        Acknowledged instances: ``<study>/<series>/<sop>.dcm``.
    conflicts
        Instances whose UID was already here with other bytes.
    rejected
        What the drop folder could not take, each with a ``.json`` that says why.
    results
        Result objects: ``<job>/<attempt>/``.
    trash
        Files that are being deleted.
    """

    def __init__(self, root: Path, *, min_free_bytes: int = 0) -> None:
        self.root = root
        self.min_free_bytes = min_free_bytes
        self.incoming = IncomingFolder(root / "incoming")
        self.instances = root / "instances"
        self.conflicts = root / "conflicts"
        self.rejected = root / "rejected"
        self.results = root / "results"
        self.trash = root / "trash"
        for folder in (self.instances, self.conflicts, self.rejected, self.results, self.trash):
            ensure_folder(folder)

    def free_bytes(self) -> int:
        """Free space that an unprivileged process may use, in bytes."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def require_room(self, needed_bytes: int = 0) -> None:
        """Raise ``SpoolFull`` when the free space is, or would come, below the water mark."""
        free = self.free_bytes()
        if free - needed_bytes < self.min_free_bytes:
            raise SpoolFull(
                "the disk of the spool is below its water mark",
                found=f"{free >> 20} MiB free",
                expected=f"{self.min_free_bytes >> 20} MiB (storage.min_free_bytes)",
                mend="Free space, or lower the mark; reception goes on by itself",
            )

    def instance_path(self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> Path:
        """Where an acknowledged instance lies."""
        return Path(f"{self.instances}/{study_instance_uid}/{series_instance_uid}/{sop_instance_uid}.dcm")

    def conflict_path(self, sop_instance_uid: str, sha256: str) -> Path:
        """Where the other bytes of an instance lie: ``<sop>/<hash>.dcm``."""
        return self.conflicts / sop_instance_uid / f"{sha256}.dcm"

    def adopt(self, incoming: Path, target: Path) -> str:
        """Move a file to its place; when this returns, its bytes and its name are durable.

        Returns its path relative to the spool. When it raises, the file is gone.
        """
        rename_into(incoming, target)
        try:
            # In this order: journaling file systems bring the new name to the disk with the bytes, so that the second
            # sync finds nothing left to do.
            fsync_file(target)
            fsync_folder(target.parent)
        except OSError:
            target.unlink(missing_ok=True)
            raise
        return self.relative(target)

    def relative(self, path: Path) -> str:
        """The path relative to the spool, as the journal keeps it."""
        text, root = str(path), f"{self.root}/"
        if not text.startswith(root):
            raise ValueError("a path outside the spool")
        return text.removeprefix(root)

    def absolute(self, relative: str) -> Path:
        """The path of what the journal names."""
        return self.root / relative

    def results_folder(self, job_id: int, attempt: int) -> Path:
        """Make and return the folder for the result objects of one attempt at a job; earlier attempts' are removed."""
        of_job = self.results / str(job_id)
        ensure_folder(of_job)
        for leftover in of_job.iterdir():
            # Not those of later attempts: a worker that was suspended until its lease was gone comes by here too, and
            # the results of who took its job over may be promised already.
            if int(leftover.name) <= attempt:
                shutil.rmtree(leftover)
        folder = of_job / str(attempt)
        ensure_folder(folder)
        return folder
