"""Where rejected files are kept: their bytes as they were, and a JSON file that says why."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from appliance.errors import RejectedInput
from appliance.journal.journal import Journal
from appliance.spool.durable import fsync_file, move_into_place, write_durably
from appliance.spool.spool import Spool


class RejectedShelf:
    """Keeps what is not taken in ``spool.rejected``: ``<id>/<id>.bin`` and ``<id>/<id>.json``.

    The id says nothing about the file, whose own name may hold a patient's: that is in the JSON only.
    """

    def __init__(self, spool: Spool, journal: Journal) -> None:
        self._spool = spool
        self._journal = journal

    def keep(self, path: Path, name: str, refusal: RejectedInput, *, source: str, received_at: float) -> str:
        """Move the file at ``path`` to the shelf; return its id.

        ``name`` is what the sender calls it. The id follows from name and content, so that a file which is rejected
        again because a crash came in between gets the same place and no second row in the journal.

        Raises
        ------
        OSError
            It cannot be moved: it stays where it is.
        """
        status = path.stat()
        key = f"{name}\0{status.st_size}\0{_sha256_of_start(path)}"
        # File names are bytes; what is not UTF-8 in them is kept as it is.
        identifier = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        folder = self._spool.rejected / identifier
        target = folder / f"{identifier}.bin"
        note = folder / f"{identifier}.json"
        # The note is written after the journal's row and marks it as done; the move comes last, as it ends the file's
        # stay in the drop folder, from where all this is done again when a crash comes before.
        if not note.exists():
            relative = self._spool.relative(target)
            self._journal.instances.add_rejection(refusal.reason, str(refusal), relative, source, received_at)
            write_durably(note, _note(name, status.st_size, refusal, source, received_at))
        _move(path, target)
        return identifier


def _note(name: str, size: int, refusal: RejectedInput, source: str, received_at: float) -> bytes:
    content = {
        "reason": refusal.reason,
        "message": str(refusal),
        "found": refusal.found,
        "expected": refusal.expected,
        "mend": refusal.mend,
        "name": name,
        "bytes": size,
        "source": source,
        "received_at": datetime.fromtimestamp(received_at, UTC).isoformat(timespec="milliseconds"),
    }
    return (json.dumps(content, indent=2) + "\n").encode("ascii")


def _sha256_of_start(path: Path) -> str:
    """Hash of the first MiB: enough to tell two files of one name and size apart."""
    with path.open("rb") as stream:
        return hashlib.sha256(stream.read(1024 * 1024)).hexdigest()


def _move(source: Path, target: Path) -> None:
    fsync_file(source)
    try:
        move_into_place(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The drop folder is on another filesystem.
        temporary = target.with_suffix(".part")
        shutil.copyfile(source, temporary)
        fsync_file(temporary)
        move_into_place(temporary, target)
        source.unlink()
