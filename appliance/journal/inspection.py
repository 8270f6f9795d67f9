"""The journal under examination: what it says of itself, and of files. Each question reads one moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from appliance.journal.database import Database, newest_schema

_PAGE: Final = 1000
_FRAMES: Final = "(SELECT IFNULL(sum(frames), 0) FROM instance WHERE instance.series_id = series.series_id)"


@dataclass(frozen=True, slots=True)
class Miscount:
    """A count that is kept by triggers, and the number of rows that there are."""

    machine: str
    state: str
    counted: int
    rows: int


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that a row names.

    Attributes
    ----------
    owner_id
        Its series, or the job that made it.
    sha256
        Of an image without its file meta information, of a result as a whole.
    """

    kind: Literal["image", "result"]
    row_id: int
    owner_id: int
    path: str
    bytes: int
    sha256: str


class Inspection:
    """The part of the journal for ``appliance doctor``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def schema(self) -> tuple[int, int]:
        """Version of the journal's schema, and the newest that this version of the appliance knows."""
        return self._database.pragma("user_version"), newest_schema()

    def damage(self) -> str | None:
        """What SQLite finds wrong with the file, ``None``: nothing. Reads all of it."""
        try:
            found = self._database.connection().execute("PRAGMA integrity_check(3)").fetchall()
        except sqlite3.DatabaseError as error:
            return str(error)
        text = "; ".join(row[0] for row in found)
        return None if text == "ok" else text

    def dangling(self) -> list[str]:
        """Tables with rows that refer to others which are not there."""
        rows = self._database.connection().execute("PRAGMA foreign_key_check").fetchall()
        return sorted({f"{row['table']} to {row['parent']}" for row in rows})

    def miscounts(self) -> list[Miscount]:
        """Counts that are not those of the rows."""
        connection = self._database.connection()
        connection.execute("BEGIN")  # all of one moment, and nobody who writes waits
        try:
            return _miscounts(connection)
        finally:
            connection.execute("COMMIT")

    def recount(self) -> None:
        """Let every count be that of the rows."""
        with self._database.transaction() as connection:
            for miscount in _miscounts(connection):
                connection.execute(
                    "UPDATE tally SET rows = ? WHERE machine = ? AND state = ?",
                    (miscount.rows, miscount.machine, miscount.state),
                )
            connection.execute(f"UPDATE series SET image_count = {_FRAMES} WHERE image_count <> {_FRAMES}")
            connection.execute("DELETE FROM delivery_tally")
            connection.execute(
                "INSERT INTO delivery_tally SELECT destination, state, count(*) FROM delivery"
                " GROUP BY destination, state"
            )

    def files(self) -> Iterator[NamedFile]:
        """All files that have to be there. Nothing is locked meanwhile: ask ``names`` about one that is not."""
        for kind, query in (
            ("image", "SELECT instance_id AS row_id, series_id AS owner_id, path, bytes, sha256 FROM instance"),
            ("result", "SELECT result_id AS row_id, job_id AS owner_id, path, bytes, sha256 FROM result"),
        ):
            last = 0
            while True:
                rows = (
                    self._database.connection()
                    .execute(f"SELECT * FROM ({query}) WHERE row_id > ? ORDER BY row_id LIMIT {_PAGE}", (last,))
                    .fetchall()
                )
                yield from (NamedFile(kind=kind, **row) for row in rows)  # type: ignore[arg-type]
                if len(rows) < _PAGE:
                    break
                last = rows[-1]["row_id"]

    def expired_leases(self, before: float) -> list[int]:
        """Jobs whose worker's lease ran out before a moment, and that nobody has taken back."""
        rows = self._database.connection().execute(
            "SELECT job_id FROM job WHERE state = 'running' AND lease_until < ?", (before,)
        )
        return [row["job_id"] for row in rows]

    def newest_at(self) -> float | None:
        """The time of the newest row, in seconds since 1970."""
        rows = [
            self._database.connection().execute(query).fetchone()
            for query in (
                "SELECT received_at FROM instance ORDER BY instance_id DESC LIMIT 1",
                "SELECT at FROM event ORDER BY event_id DESC LIMIT 1",
            )
        ]
        return max((float(row[0]) for row in rows if row is not None), default=None)

    def mark_lost(self, instance_id: int, now: float) -> None:
        """Note that the file of an image is not there."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO lost_instance (instance_id, found_at) VALUES (?,?)", (instance_id, now)
            )

    def lost(self) -> set[int]:
        """The images that are noted as lost."""
        return {row[0] for row in self._database.connection().execute("SELECT instance_id FROM lost_instance")}

    def can_shrink(self) -> bool:
        """Whether unused pages of the file can be given back to the disk."""
        return bool(self._database.pragma("auto_vacuum"))

    def rewrite(self) -> None:
        """Write the whole file anew, so that it has no unused pages and can give them back later. Not while roles run.

        Raises
        ------
        OSError
            There is no room for a second copy.
        """
        self._database.rewrite()


def _miscounts(connection: sqlite3.Connection) -> list[Miscount]:
    found = []
    for (machine,) in connection.execute("SELECT DISTINCT machine FROM tally").fetchall():
        table = "job" if machine == "shadow" else machine
        where = {"job": "WHERE shadow = 0", "shadow": "WHERE shadow = 1"}.get(machine, "")
        rows = dict(connection.execute(f"SELECT state, count(*) FROM {table} {where} GROUP BY state").fetchall())
        found += [
            Miscount(machine, row["state"], row["rows"], rows.get(row["state"], 0))
            for row in connection.execute("SELECT state, rows FROM tally WHERE machine = ?", (machine,))
            if row["rows"] != rows.get(row["state"], 0)
        ]
    rows = {
        (row[0], row[1]): row[2]
        for row in connection.execute("SELECT destination, state, count(*) FROM delivery GROUP BY destination, state")
    }
    counted = {(row[0], row[1]): row[2] for row in connection.execute("SELECT * FROM delivery_tally")}
    found += [
        Miscount(
            "delivery of a destination", state, counted.get((destination, state), 0), rows.get((destination, state), 0)
        )
        for destination, state in sorted(rows.keys() | counted.keys())
        if counted.get((destination, state), 0) != rows.get((destination, state), 0)
    ]
    found += [
        Miscount("image of a series", row["state"], row["image_count"], row["rows"])
        for row in connection.execute(
            f"SELECT state, image_count, {_FRAMES} AS rows FROM series WHERE image_count <> {_FRAMES}"
        )
    ]
    return found
