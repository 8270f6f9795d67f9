"""Which files of a folder are whole: neither size nor time has changed for a while."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

_MAX_DEPTH: Final = 32
_UNFINISHED: Final = (".part", ".tmp", ".filepart", ".crdownload", "~")
"""Names that copying programs use while they write; the file is taken once it has its own name."""
_LITTER: Final = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""What desktops leave in folders: never taken, removed with a folder that is otherwise empty."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What tells whether a file is still the one that was looked at; the time is in nanoseconds since 1970."""

    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Signature:
        """The signature of a file with this status."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(slots=True)
class View:
    """The folder at one look.

    Attributes
    ----------
    whole
        Files that can be taken, with their signatures, in the order of their names.
    occupied
        Names of the sub-folders right below the folder that hold anything that is not litter, whole or not.
    folders
        Names of the sub-folders right below the folder.
    wait_s
        How long until the next file may be whole, ``None`` when none is waited for.
    """

    whole: list[tuple[Path, Signature]] = field(default_factory=list)
    occupied: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    wait_s: float | None = None

    def note(self, relative: Path) -> None:
        """Note that there is something at ``relative``."""
        if len(relative.parts) > 1:
            self.occupied.add(relative.parts[0])


class QuietFiles:
    """Remembers since when each file below ``root`` has been as it is."""

    def __init__(self, root: Path, quiet_s: float) -> None:
        self._root = root
        self._quiet_s = quiet_s
        self._seen: dict[Path, tuple[Signature, float]] = {}

    def look(self, now: float) -> View:
        """Look at every file; ``now`` is a monotonic time in seconds.

        Symbolic links are not followed, special files and unfinished names are left alone.

        Raises
        ------
        OSError
            The folder itself cannot be read.
        """
        view = View()
        seen: dict[Path, tuple[Signature, float]] = {}
        for path, status in self._walk(self._root, 0, view):
            signature = Signature.of(status)
            known, since = self._seen.get(path, (None, now))
            if known != signature:
                since = now
            seen[path] = (signature, since)
            view.note(path.relative_to(self._root))
            left_s = self._quiet_s - (now - since)
            if left_s <= 0:
                view.whole.append((path, signature))
            else:
                view.wait_s = left_s if view.wait_s is None else min(view.wait_s, left_s)
        self._seen = seen
        view.whole.sort()
        return view

    def _walk(self, folder: Path, depth: int, view: View) -> Iterator[tuple[Path, os.stat_result]]:
        with os.scandir(folder) as entries:
            found = list(entries)
        for entry in found:
            path = Path(entry.path)
            relative = path.relative_to(self._root)
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # gone between two looks
            if stat.S_ISDIR(status.st_mode):
                if depth == 0:
                    view.folders.add(entry.name)
                if entry.name.startswith(".") or depth == _MAX_DEPTH:
                    view.note(relative / "*")
                    continue
                try:
                    yield from self._walk(path, depth + 1, view)
                except OSError:
                    view.note(relative / "*")  # removed meanwhile, or not ours to read: looked at next time
            elif stat.S_ISREG(status.st_mode) and not _is_unfinished(entry.name):
                if entry.name not in _LITTER:
                    yield path, status
            elif entry.name not in _LITTER:
                view.note(relative)


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(_UNFINISHED)


def remove_emptied(folder: Path) -> None:
    """Remove a folder in which only empty folders and litter are left; anything else in it stays, with its parents."""
    for parent, _, names in os.walk(folder, topdown=False):
        try:
            if set(names) <= _LITTER:
                for name in names:
                    (Path(parent) / name).unlink()
            Path(parent).rmdir()
        except OSError:
            pass  # something came into it, or it is not ours to remove; it is looked at again
