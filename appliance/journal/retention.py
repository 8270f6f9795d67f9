"""What may be deleted, and the deletion of its rows: a series at a time, each in one short transaction.

A deletion is one commit: the rows go, a row that says so comes, and the paths of the files become tombstones. Nobody
ever finds a row whose file is missing; and whatever ends the process later, the tombstones tell which files to remove.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from appliance.journal.commitments import NEEDED
from appliance.journal.database import Database

_COMPARED: Final = 1000
"""Images that ``appliance models compare`` looks at unless it is told another number."""

_AT_ONCE: Final = 200
"""Deliveries that are deleted in one transaction, which takes about 10 ms."""

_OF_STUDY = "(SELECT series_id FROM series WHERE study_id = :study)"
_DELIVERIES = f"""(
    SELECT delivery.state, delivery.finished_at FROM job JOIN result USING (job_id) JOIN delivery USING (result_id)
    WHERE series_id IN {_OF_STUDY}
    UNION ALL SELECT state, finished_at FROM instance JOIN delivery USING (instance_id) WHERE series_id IN {_OF_STUDY}
)"""
_HOLDS: Final = {
    "receiving": "SELECT 1 FROM series WHERE study_id = :study AND state = 'receiving'",
    "job": f"SELECT 1 FROM job WHERE series_id IN {_OF_STUDY} AND state IN ('queued', 'running')",
    "failed job": (
        f"SELECT 1 FROM job WHERE series_id IN {_OF_STUDY} AND state = 'failed' AND shadow = 0"
        " AND finished_at >= :failed_before"
    ),
    "delivery": f"SELECT 1 FROM {_DELIVERIES} WHERE state IN ('queued', 'sending')",
    "failed delivery": f"SELECT 1 FROM {_DELIVERIES} WHERE state = 'failed' AND finished_at >= :failed_before",
    "missing image": (
        "SELECT 1 FROM series JOIN expected_instance USING (series_instance_uid)"
        " JOIN procedure_step USING (procedure_step_id) WHERE study_id = :study AND ended_at >= :failed_before"
    ),
    "shadow": (
        "SELECT 1 FROM job JOIN activation ON activation.model = job.model AND shadow_version = job.model_version"
        f" WHERE series_id IN {_OF_STUDY} AND shadow = 1 AND job_id >= IFNULL((SELECT job_id FROM job newest"
        f" WHERE shadow = 1 AND newest.model = job.model ORDER BY job_id DESC LIMIT 1 OFFSET {_COMPARED - 1}), 0)"
    ),
    "commitment": f"{NEEDED} AND instance.series_id IN {_OF_STUDY}",
    "recent result": f"SELECT 1 FROM job WHERE series_id IN {_OF_STUDY} AND finished_at >= :before",
}
"""Why a study stays although it is old enough, and the question that finds out."""
HOLDS: Final = tuple(_HOLDS)
"""The names of these: values of a metric's label."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is old enough, as moments in seconds since 1970.

    Attributes
    ----------
    before
        The newest image and the newest outcome of a study are older.
    failed_before
        Failed jobs and deliveries that ended later can still be requeued, and images that a procedure step lists which
        ended later can still come.
    """

    before: float
    failed_before: float


@dataclass(frozen=True, slots=True)
class Deletion:
    """A row of the audit: see the table ``deletion``."""

    deletion_id: int
    actor: str
    reason: str
    what: str
    row_id: int
    study: str | None
    study_gone: bool
    instances: int
    results: int
    bytes: int
    first_received_at: float
    last_received_at: float
    deleted_at: float


@dataclass(frozen=True, slots=True)
class DeletionTotal:
    """All that was ever deleted for one reason."""

    reason: str
    studies: int
    instances: int
    bytes: int


class Retention:
    """The keeper's part of the journal."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def studies(self, before: float) -> list[int]:
        """The studies whose newest image came before a moment, oldest first, whether or not something holds them."""
        rows = self._database.connection().execute(
            "SELECT study_id, max(last_received_at) AS newest FROM series GROUP BY study_id HAVING newest < ? "
            "ORDER BY newest",
            (before,),
        )
        return [row["study_id"] for row in rows]

    def hold(self, study_id: int, limits: Limits) -> str | None:
        """What needs the study still (``job``, ``delivery``, …), or ``None``: it may go."""
        return _hold(self._database.connection(), study_id, limits)

    def delete_series(self, study_id: int, limits: Limits, *, reason: str, now: float) -> Deletion | None:
        """Delete the first series of a study with all that came of it; ``None`` when something holds it, or it is gone.

        A study whose series do not all go, because the process ends, say, is as whole as one with fewer series.
        """
        while self._forget_forwarded(study_id, limits):
            pass
        with self._database.transaction() as connection:
            row = _first_series(connection, study_id, limits)
            if row is None:
                return None
            series_id = row["series_id"]
            paths = _paths(connection, series_id)
            sizes = connection.execute(
                "SELECT count(*) AS instances, total(bytes) AS bytes FROM instance WHERE series_id = ?", (series_id,)
            ).fetchone()
            results = connection.execute(
                "SELECT count(*) AS results, total(bytes) AS bytes FROM result JOIN job USING (job_id) "
                "WHERE series_id = ?",
                (series_id,),
            ).fetchone()
            _delete_rows(connection, series_id)
            last = row["series"] == 1
            if last:
                connection.execute("DELETE FROM study WHERE study_id = ?", (study_id,))
            return _record(
                connection,
                paths,
                reason=reason,
                what="series",
                row_id=series_id,
                study=hashlib.sha256(row["study_instance_uid"].encode()).hexdigest(),
                study_gone=last,
                instances=sizes["instances"],
                results=results["results"],
                bytes_=int(sizes["bytes"] + results["bytes"]),
                received=(row["first_received_at"], row["last_received_at"]),
                now=now,
            )

    def _forget_forwarded(self, study_id: int, limits: Limits) -> bool:
        """Delete a part of the deliveries of images that are done; whether there may be more of them.

        They are as many as the images, and with their events they would keep the lock for longest.
        """
        with self._database.transaction(durable=False) as connection:
            row = _first_series(connection, study_id, limits)
            if row is None:
                return False
            return (
                connection.execute(
                    "DELETE FROM delivery WHERE delivery_id IN (SELECT delivery_id FROM instance JOIN delivery"
                    " USING (instance_id) WHERE series_id = ? LIMIT ?)",
                    (row["series_id"], _AT_ONCE),
                ).rowcount
                == _AT_ONCE
            )

    def delete_rejection(self, before: float, *, reason: str, now: float) -> Deletion | None:
        """Delete the oldest file that could not be taken in, when it came before a moment; ``None`` without one."""
        with self._database.transaction() as connection:
            row = connection.execute("SELECT * FROM rejection ORDER BY rejection_id LIMIT 1").fetchone()
            if row is None or row["received_at"] >= before:
                return None
            connection.execute("DELETE FROM rejection WHERE rejection_id = ?", (row["rejection_id"],))
            return _record(
                connection,
                [PurePosixPath(row["path"]).parent.as_posix()],
                reason=reason,
                what="rejected",
                row_id=row["rejection_id"],
                study=None,
                study_gone=False,
                instances=0,
                results=0,
                bytes_=0,
                received=(row["received_at"], row["received_at"]),
                now=now,
            )

    def totals(self) -> list[DeletionTotal]:
        """What was deleted so far, by reason; costs the same however much it was."""
        return [DeletionTotal(**row) for row in self._database.connection().execute("SELECT * FROM deletion_total")]

    def newest(self, limit: int) -> list[Deletion]:
        """The newest rows of the audit, newest first."""
        rows = self._database.connection().execute("SELECT * FROM deletion ORDER BY deletion_id DESC LIMIT ?", (limit,))
        return [Deletion(**{**row, "study_gone": bool(row["study_gone"])}) for row in rows]

    def oldest_received_at(self) -> float | None:
        """When the first image of the oldest series that is here came, in seconds since 1970."""
        row = (
            self._database.connection()
            .execute("SELECT first_received_at FROM series ORDER BY series_id LIMIT 1")
            .fetchone()
        )
        return None if row is None else row["first_received_at"]

    def taken_bytes(self, since: float) -> int:
        """Bytes of images that came and results that were made since a moment, whether or not they are here still.

        Its hour is counted whole. Costs the same however much it was.
        """
        found = self._database.connection().execute(
            "SELECT IFNULL(sum(bytes), 0) FROM taken_room WHERE hour >= ?", (int(since // 3600),)
        )
        return int(found.fetchone()[0])

    def shrink(self, pages: int) -> None:
        """Give up to so many unused pages (one or more) back to the disk.

        Unused pages are used again, so that it is worth while only when there are many.
        """
        # Each step of the statement gives back one page, and ``execute`` makes one step.
        self._database.connection().executescript(f"PRAGMA incremental_vacuum({pages:d})")

    def pages(self) -> tuple[int, int]:
        """Pages of the journal's file: unused ones that can be given back, and all."""
        pragma = self._database.pragma
        return (pragma("freelist_count") if pragma("auto_vacuum") else 0), pragma("page_count")


def _first_series(connection: sqlite3.Connection, study_id: int, limits: Limits) -> sqlite3.Row | None:
    """The series of a study that goes first, with what is to be said of it; ``None`` when the study has to stay."""
    row: sqlite3.Row | None = connection.execute(
        "SELECT series_id, study_instance_uid, first_received_at, last_received_at,"
        " (SELECT max(last_received_at) FROM series WHERE study_id = :study) AS newest,"
        " (SELECT count(*) FROM series WHERE study_id = :study) AS series "
        "FROM series JOIN study USING (study_id) WHERE study_id = :study ORDER BY series_id LIMIT 1",
        {"study": study_id},
    ).fetchone()
    if row is None or row["newest"] >= limits.before or _hold(connection, study_id, limits) is not None:
        return None
    return row


def _hold(connection: sqlite3.Connection, study_id: int, limits: Limits) -> str | None:
    values = {"study": study_id, "failed_before": limits.failed_before, "before": limits.before}
    for name, question in _HOLDS.items():
        if connection.execute(f"{question} LIMIT 1", values).fetchone() is not None:
            return name
    return None


def _paths(connection: sqlite3.Connection, series_id: int) -> list[str]:
    """The folders, relative to the spool, in which the files of a series and of its results lie."""
    folders = connection.execute(
        # Cut off from the right what is not a slash: the name of the file.
        "SELECT DISTINCT rtrim(path, replace(path, '/', '')) AS folder FROM instance WHERE series_id = :series "
        "UNION SELECT rtrim(conflict.path, replace(conflict.path, '/', '')) FROM conflict JOIN instance"
        " USING (instance_id) WHERE series_id = :series "
        "UNION SELECT 'results/' || job_id FROM job WHERE series_id = :series",
        {"series": series_id},
    )
    return [row["folder"].rstrip("/") for row in folders]


def _delete_rows(connection: sqlite3.Connection, series_id: int) -> None:
    jobs = "(SELECT job_id FROM job WHERE series_id = ?)"
    for statement in (
        f"DELETE FROM delivery WHERE result_id IN (SELECT result_id FROM result WHERE job_id IN {jobs})",
        f"DELETE FROM result WHERE job_id IN {jobs}",
        f"DELETE FROM stage WHERE job_id IN {jobs}",
        "DELETE FROM job WHERE series_id = ?",
        "DELETE FROM assessment WHERE series_id = ?",
        "DELETE FROM conflict WHERE instance_id IN (SELECT instance_id FROM instance WHERE series_id = ?)",
        "DELETE FROM delivery WHERE instance_id IN (SELECT instance_id FROM instance WHERE series_id = ?)",
        "DELETE FROM instance WHERE series_id = ?",
        "DELETE FROM series WHERE series_id = ?",
    ):
        connection.execute(statement, (series_id,))


def _record(
    connection: sqlite3.Connection,
    paths: list[str],
    *,
    reason: str,
    what: str,
    row_id: int,
    study: str | None,
    study_gone: bool,
    instances: int,
    results: int,
    bytes_: int,
    received: tuple[float, float],
    now: float,
) -> Deletion:
    row = connection.execute(
        "INSERT INTO deletion (actor, reason, what, row_id, study, study_gone, instances, results, bytes,"
        " first_received_at, last_received_at, deleted_at) VALUES ('retention',?,?,?,?,?,?,?,?,?,?,?) RETURNING *",
        (reason, what, row_id, study, study_gone, instances, results, bytes_, *received, now),
    ).fetchone()
    connection.executemany(
        "INSERT OR REPLACE INTO tombstone (path, deletion_id) VALUES (?,?)",
        [(path, row["deletion_id"]) for path in paths],
    )
    return Deletion(**{**row, "study_gone": bool(row["study_gone"])})
