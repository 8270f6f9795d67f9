"""A cache of files that can be made again: found by everything that they depend on, checked before use.

Each entry is a folder ``<key>/`` with the file itself, a JSON file that says what it was made from and which bytes it
has, and whatever else belongs to it. It gets its name when it is whole, so work that was killed leaves nothing that
could be taken for a result.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.spool.durable import ensure_folder, fsync_folder, write_durably

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """What was made.

    Attributes
    ----------
    info
        What is worth knowing of it; its size and SHA-256 are added.
    beside
        Name → content of more files of the entry.
    """

    content: bytes
    info: Mapping[str, Any]
    beside: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Derived:
    """A file on disk whose bytes are those that were made.

    Attributes
    ----------
    built
        Whether it was made now, rather than found.
    """

    path: Path
    info: dict[str, Any]
    built: bool


class DerivedFiles:
    """The cache below one folder.

    Parameters
    ----------
    what
        What an entry is called in messages, such as ``engine``.
    file, info_file
        Names of the file and of its JSON in an entry.
    max_bytes
        Entries that have not been used for longest are removed when all together take more.
    """

    def __init__(self, folder: Path, *, what: str, file: str, info_file: str, max_bytes: int) -> None:
        self.folder = folder
        self._what = what
        self._file = file
        self._info_file = info_file
        self._max_bytes = max_bytes
        ensure_folder(folder)

    def get(self, parts: Mapping[str, Any], make: Callable[[], Made]) -> Derived:
        """Return the file that depends on ``parts``, made by ``make`` when it is not here or damaged.

        Another process that wants the same file waits until it is made.

        Raises
        ------
        OSError
            The disk failed or is full; nothing half written is left.
        """
        key = _key(parts)
        with (self.folder / f".{key}.lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self._find(key)
            if found is not None:
                return found
            entry = self._store(key, make())
        self._evict(keep=key)
        return entry

    def find(self, parts: Mapping[str, Any]) -> Derived | None:
        """Return the file that depends on ``parts`` if it is here and sound; nothing is made."""
        return self._find(_key(parts))

    def remove(self, entry: Derived) -> None:
        """Take an entry out of the cache: what it holds turned out to be of no use."""
        shutil.rmtree(entry.path.parent)

    def newest(self, wanted: Callable[[Mapping[str, Any]], bool]) -> Derived | None:
        """Return, of the sound entries whose ``info`` is wanted, the one that was used last; ``None`` without one."""
        for key, info in self._known():
            if wanted(info) and (found := self._find(key)) is not None:
                return found
        return None

    def infos(self) -> list[dict[str, Any]]:
        """What the entries were made from, that which was used last first; for display, no file is checked."""
        return [info for _, info in self._known()]

    def _known(self) -> Iterator[tuple[str, dict[str, Any]]]:
        folders = [path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        for folder in sorted(folders, key=lambda path: -path.stat().st_mtime):
            try:
                yield folder.name, json.loads((folder / self._info_file).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue  # damaged: it is named when someone asks for it

    def _find(self, key: str) -> Derived | None:
        folder = self.folder / key
        if not folder.is_dir():
            return None
        try:
            info = json.loads((folder / self._info_file).read_text(encoding="utf-8"))
            if hashlib.sha256((folder / self._file).read_bytes()).hexdigest() != info["sha256"]:
                raise ValueError("its SHA-256 is another")
        except (OSError, ValueError, KeyError) as error:
            _log.warning("the %s %s in the cache is damaged (%s) and is built anew", self._what, key, error)
            shutil.rmtree(folder)
            return None
        os.utime(folder)  # used now
        return Derived(folder / self._file, info, built=False)

    def _store(self, key: str, made: Made) -> Derived:
        info = {**made.info, "sha256": hashlib.sha256(made.content).hexdigest(), "bytes": len(made.content)}
        scratch = self.folder / f".{key}.building"
        if scratch.exists():
            shutil.rmtree(scratch)  # of work that was killed
        try:
            write_durably(scratch / self._file, made.content)
            for name, content in made.beside.items():
                write_durably(scratch / name, content)
            write_durably(scratch / self._info_file, (json.dumps(info, indent=2) + "\n").encode())
        except OSError as error:
            shutil.rmtree(scratch, ignore_errors=True)
            # The name that a writer on a full disk gives is none, or one that is gone: the folder can be looked at.
            raise OSError(error.errno, error.strerror, str(self.folder)) from error
        folder = self.folder / key
        scratch.rename(folder)
        fsync_folder(self.folder)
        return Derived(folder / self._file, info, built=True)

    def _evict(self, keep: str) -> None:
        entries = sorted(
            (path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")),
            key=lambda path: path.stat().st_mtime,
        )
        sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in entries}
        total = sum(sizes.values())
        for path in entries:
            if total <= self._max_bytes:
                return
            if path.name != keep:
                _log.info("the %s %s has not been used for longest and leaves the cache", self._what, path.name)
                shutil.rmtree(path)
                total -= sizes[path]


def _key(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
