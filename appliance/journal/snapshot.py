"""The journal as it is at one moment, in a file of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import JournalError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of the journal that nobody writes to."""

    path: Path
    schema: int

    def paths(self) -> Iterator[str]:
        """The files that its rows name, relative to the spool."""
        return self._read(
            "SELECT path FROM instance UNION ALL SELECT path FROM conflict UNION ALL SELECT path FROM result"
        )

    def rejected(self) -> Iterator[str]:
        """Those that could not be taken in. They get their place after their row, so that one may be missing."""
        return self._read("SELECT path FROM rejection UNION ALL SELECT rtrim(path, 'bin') || 'json' FROM rejection")

    def _read(self, query: str) -> Iterator[str]:
        with closing(sqlite3.connect(self.path)) as connection:
            for row in connection.execute(query):
                yield row[0]


def take_snapshot(journal: Path, target: Path) -> Snapshot:
    """Copy the journal while others write to it; they do not wait, and all that was committed before is in the copy.

    Raises
    ------
    JournalError
        It cannot be read, or the copy is not sound.
    """
    target.unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"file:{journal}?mode=rw", uri=True)) as source,
            closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
            schema = copy.execute("PRAGMA user_version").fetchone()[0]
            # A copy is one file: without this, whoever opens it makes a write-ahead log beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
            found = copy.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.Error as error:
        raise JournalError(
            f"the journal {journal} cannot be copied", found=str(error), mend="See: appliance doctor"
        ) from error
    if found != "ok":
        raise JournalError(f"the journal {journal} is damaged", found=found, mend="See: appliance doctor")
    return Snapshot(target, schema)
