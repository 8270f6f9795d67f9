"""Files that have to follow their rows: which they are, and whether somebody needs their names again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from appliance.journal.database import Database


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A folder, relative to the spool, of which something may have to be removed, and when it was given up."""

    path: str
    deleted_at: float


class Names:
    """What the journal has under a path, while nobody else can write to it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def has(self, path: str) -> bool:
        """Whether there is a row for what lies at ``path``, relative to the spool.

        A file that was deleted may have come again in the meantime, and a number may belong to a new job.
        """
        parts = PurePosixPath(path).parts
        question, value = {
            "instances": ("SELECT path FROM instance WHERE sop_instance_uid = ?", PurePosixPath(path).stem),
            "conflicts": (
                "SELECT conflict.path FROM instance JOIN conflict USING (instance_id) WHERE sop_instance_uid = ?",
                parts[1],
            ),
            "results": ("SELECT 'results/' || job_id AS path FROM job WHERE job_id = ?", parts[1]),
            "rejected": ("SELECT rtrim(path, replace(path, '/', '')) AS path FROM rejection", None),
        }[parts[0]]
        rows = self._connection.execute(question, () if value is None else (value,))
        return any(row["path"].rstrip("/") == path for row in rows)


class Tombstones:
    """The part of the journal for the removal of files."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def waiting(self) -> list[Tombstone]:
        """All that there are, longest waiting first."""
        rows = self._database.connection().execute(
            "SELECT path, deleted_at FROM tombstone JOIN deletion USING (deletion_id) ORDER BY deletion_id"
        )
        return [Tombstone(**row) for row in rows]

    @contextmanager
    def names(self) -> Iterator[Names]:
        """Keep everybody from registering anything for a moment, to look at names and act on the answer."""
        with self._database.transaction(durable=False) as connection:
            yield Names(connection)

    def done(self, path: str) -> None:
        """All that had to go from ``path`` is gone, durably."""
        with self._database.transaction(durable=False) as connection:
            connection.execute("DELETE FROM tombstone WHERE path = ?", (path,))
