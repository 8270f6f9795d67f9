"""Files follow their rows: what tombstones name is removed, unless it has come again."""

from __future__ import annotations

import shutil
from pathlib import Path

from appliance.journal.journal import Journal
from appliance.journal.tombstones import Names, Tombstone
from appliance.spool.durable import fsync_folder
from appliance.spool.spool import Spool

_SEPARATOR = "+"
"""Stands for the slash in names in the trash: no UID, number or hash has it, so that the place can be told from it."""
_FILE_BY_FILE = ("instances", "conflicts")
"""Folders into which something new may come at any moment; the others are given up as a whole."""


class Removal:
    """Removes files whose rows are gone. One for a state folder.

    An image that is deleted and sent again at the same moment has the same path. So each file is first moved to the
    trash while nobody can register one; there it is looked at: a file that has a name in ``incoming`` as well has just
    come, and gets its place back before anybody has missed it.
    """

    def __init__(self, journal: Journal, spool: Spool) -> None:
        self._journal = journal
        self._spool = spool

    def take_up(self) -> None:
        """Finish what an earlier life had begun."""
        for path in sorted(self._spool.trash.iterdir()):
            relative = path.name.replace(_SEPARATOR, "/")
            with self._journal.tombstones.names() as names:
                place = self._spool.absolute(relative)
                if path.is_file() and names.has(relative) and not place.exists():
                    path.rename(place)  # it had come again, and the process ended before it had its place back
                    continue
            _discard(path)
        self.remove_all()

    def remove_all(self) -> None:
        """Remove what all tombstones name.

        Raises
        ------
        OSError
            The disk failed. The tombstones of what is left stay.
        """
        for tombstone in self._journal.tombstones.waiting():
            self._remove(tombstone)

    def _remove(self, tombstone: Tombstone) -> None:
        """Remove what a tombstone names, durably, then the tombstone."""
        folder = self._spool.absolute(tombstone.path)
        if folder.is_dir():
            by_file = tombstone.path.partition("/")[0] in _FILE_BY_FILE
            moved = [
                trashed
                for path in (sorted(folder.iterdir()) if by_file else [folder])
                if (trashed := self._to_trash(path, tombstone.deleted_at)) is not None
            ]
            fsync_folder(folder if folder.is_dir() else folder.parent)
            for path in moved:
                _discard(path)
            self._remove_if_empty(folder)
            fsync_folder(self._spool.trash)
        self._journal.tombstones.done(tombstone.path)

    def _to_trash(self, path: Path, deleted_at: float) -> Path | None:
        relative = self._spool.relative(path)
        trashed = self._spool.trash / relative.replace("/", _SEPARATOR)
        with self._journal.tombstones.names() as names:
            try:
                if _is_needed(names, relative, path, deleted_at):
                    return None
                path.rename(trashed)
            except FileNotFoundError:
                return None  # the image comes again at this moment: it takes the old one's place itself
            status = trashed.stat()
            if trashed.is_file() and status.st_nlink > 1 and self._spool.incoming.has(status.st_ino):
                trashed.rename(path)
                return None
        return trashed

    def _remove_if_empty(self, folder: Path) -> None:
        """Remove a folder and those above it, up to the spool's own, as far as they are empty."""
        while folder.parent != self._spool.root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass  # it was moved as a whole
            except OSError:
                return  # something new is in it
            folder = folder.parent


def _is_needed(names: Names, relative: str, path: Path, deleted_at: float) -> bool:
    # Conflicts have one name only: the time tells one that has just come.
    return names.has(relative) or (relative.startswith("conflicts/") and path.stat().st_mtime >= deleted_at)


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
