"""Instances, and the series they belong to: what was received, and when a series may be called complete."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

from appliance.journal.database import Database
from appliance.journal.records import Assessment, DueSeries, KnownInstance, ReceivedInstance, Registration

_BEHIND_ALL = 1e10
"""Added to the rank of a shadow's job, in seconds: centuries, so that it is claimed after all that are waited for."""


class Instances:
    """The receiver's part of the journal."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, sop_instance_uid: str) -> KnownInstance | None:
        """Return what is already here under this UID, or ``None``."""
        row = (
            self._database.connection()
            .execute("SELECT instance_id, sha256, path FROM instance WHERE sop_instance_uid = ?", (sop_instance_uid,))
            .fetchone()
        )
        return None if row is None else KnownInstance(row["instance_id"], row["sha256"], row["path"])

    def register(
        self, instance: ReceivedInstance, assessments: Sequence[Assessment], *, stable_age_s: float
    ) -> Registration:
        """Register an instance whose file and mark are durable; the mark stays until ``Journal.flush`` has returned.

        ``assessments`` are those of the one-instance models: each *yes* queues its job in the same transaction. A late
        image reopens its series as the next revision and supersedes jobs of the earlier one that have not started.

        Raises
        ------
        sqlite3.IntegrityError
            The UID is already registered; ask ``find`` first, under a lock on the UID.
        """
        with self._database.transaction(durable=False) as connection:
            series_id, revision, reopened = _open_series(connection, instance, stable_age_s)
            instance_id = connection.execute(
                "INSERT INTO instance (series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, frames,"
                " revision, path, bytes, sha256, source, received_at) VALUES (?,?,?,?,?,?,?,?,?,?,?)"
                " RETURNING instance_id",
                (
                    series_id,
                    instance.sop_instance_uid,
                    instance.sop_class_uid,
                    instance.transfer_syntax_uid,
                    instance.frames,
                    revision,
                    instance.path,
                    instance.bytes,
                    instance.sha256,
                    instance.source,
                    instance.received_at,
                ),
            ).fetchone()[0]
            jobs = _assess(
                connection,
                assessments,
                series_id=series_id,
                instance_id=instance_id,
                revision=1,
                first_received_at=instance.received_at,
                last_received_at=instance.received_at,
                created_at=instance.received_at,
            )
        return Registration(series_id, instance_id, revision, reopened, jobs)

    def add_conflict(self, instance_id: int, sha256: str, path: str, source: str, received_at: float) -> bool:
        """Note other bytes under a known UID; ``False`` when these very bytes were noted before."""
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "INSERT OR IGNORE INTO conflict (instance_id, sha256, path, source, received_at) VALUES (?,?,?,?,?)",
                (instance_id, sha256, path, source, received_at),
            )
            return cursor.rowcount == 1

    def add_rejection(self, reason: str, message: str, path: str, source: str, received_at: float) -> None:
        """Note a file that could not be taken in; ``path`` is where it lies in the spool."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO rejection (reason, message, path, source, received_at) VALUES (?,?,?,?,?)",
                (reason, message, path, source, received_at),
            )

    def settle(self, series_ids: Iterable[int], settle_at: float, sign: str) -> None:
        """Note an end mark: the series may be called complete at ``settle_at``, if no further image comes.

        Parameters
        ----------
        sign
            What the mark is, for example ``association released``; it is kept with the series.
        """
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE series SET settle_at = ?, sign = ? "
                "WHERE series_id = ? AND state = 'receiving' AND settle_at > ?",
                [(settle_at, sign, series_id, settle_at) for series_id in series_ids],
            )

    def next_due_at(self) -> float | None:
        """When the next series may be called complete, or ``None`` when none is being received."""
        due: float | None = (
            self._database.connection()
            .execute("SELECT min(settle_at) FROM series WHERE state = 'receiving'")
            .fetchone()[0]
        )
        return due

    def due(self, now: float) -> list[DueSeries]:
        """The series that may be called complete at ``now``, longest due first."""
        connection = self._database.connection()
        rows = connection.execute(
            "SELECT series_id, revision, sign, attributes, image_count FROM series "
            "WHERE state = 'receiving' AND settle_at <= ? ORDER BY settle_at LIMIT 100",
            (now,),
        ).fetchall()
        return [
            DueSeries(
                series_id=row["series_id"],
                revision=row["revision"],
                sign=row["sign"],
                attributes=json.loads(row["attributes"]),
                image_count=row["image_count"],
                sop_class_uids=frozenset(
                    found[0]
                    for found in connection.execute(
                        "SELECT DISTINCT sop_class_uid FROM instance WHERE series_id = ?", (row["series_id"],)
                    )
                ),
            )
            for row in rows
        ]

    def complete(self, series: DueSeries, assessments: Sequence[Assessment], now: float) -> int | None:
        """Call a series complete and queue the jobs of the models that said yes.

        Returns how many jobs were queued, or ``None`` when an image came in between and it is not complete after all.
        """
        with self._database.transaction() as connection:
            row = connection.execute(
                "UPDATE series SET state = 'complete', completed_at = ? "
                "WHERE series_id = ? AND state = 'receiving' AND revision = ? AND image_count = ? AND settle_at <= ? "
                "RETURNING first_received_at, last_received_at",
                # The count too: with a settle time of 0 an image that came in between may have settled already, and
                # the models were asked about a series without it.
                (now, series.series_id, series.revision, series.image_count, now),
            ).fetchone()
            if row is None:
                return None
            return _assess(
                connection,
                assessments,
                series_id=series.series_id,
                instance_id=None,
                revision=series.revision,
                first_received_at=row["first_received_at"],
                last_received_at=row["last_received_at"],
                created_at=now,
            )


def _open_series(
    connection: sqlite3.Connection, instance: ReceivedInstance, stable_age_s: float
) -> tuple[int, int, bool]:
    """Find or make the series of an instance; return its id, its revision and whether it was reopened."""
    now = instance.received_at
    connection.execute(
        "INSERT OR IGNORE INTO study (study_instance_uid, created_at) VALUES (?,?)", (instance.study_instance_uid, now)
    )
    study_id = connection.execute(
        "SELECT study_id FROM study WHERE study_instance_uid = ?", (instance.study_instance_uid,)
    ).fetchone()[0]
    row = connection.execute(
        "SELECT series_id, state, revision FROM series WHERE study_id = ? AND series_instance_uid = ?",
        (study_id, instance.series_instance_uid),
    ).fetchone()
    if row is None:
        series_id = connection.execute(
            "INSERT INTO series (study_id, series_instance_uid, attributes, image_count, first_received_at,"
            " last_received_at, settle_at, sign) VALUES (?,?,?,?,?,?,?,'stable age') RETURNING series_id",
            (
                study_id,
                instance.series_instance_uid,
                json.dumps(dict(instance.attributes)),
                instance.frames,
                now,
                now,
                now + stable_age_s,
            ),
        ).fetchone()[0]
        return series_id, 1, False
    series_id, reopened = row["series_id"], row["state"] == "complete"
    revision = row["revision"] + (1 if reopened else 0)
    connection.execute(
        "UPDATE series SET state = 'receiving', revision = ?, image_count = image_count + ?, last_received_at = ?,"
        " settle_at = ?, sign = 'stable age' WHERE series_id = ?",
        (revision, instance.frames, now, now + stable_age_s, series_id),
    )
    if reopened:
        connection.execute(
            "UPDATE job SET state = 'superseded', reason = 'late-image', finished_at = ?,"
            " message = 'a late image opened the next revision' "
            "WHERE series_id = ? AND instance_id IS NULL AND state = 'queued'",
            (now, series_id),
        )
    return series_id, revision, reopened


def _assess(
    connection: sqlite3.Connection,
    assessments: Sequence[Assessment],
    *,
    series_id: int,
    instance_id: int | None,
    revision: int,
    first_received_at: float,
    last_received_at: float,
    created_at: float,
) -> int:
    """Keep what the models said and queue a job for each yes; return how many."""
    connection.executemany(
        "INSERT INTO assessment (series_id, instance_id, revision, model, model_version, refusal, assessed_at, shadow)"
        " VALUES (?,?,?,?,?,?,?,?)",
        [
            (series_id, instance_id, revision, a.model, a.model_version, a.refusal, created_at, a.shadow)
            for a in assessments
        ],
    )
    wanted = [a for a in assessments if a.refusal is None]
    connection.executemany(
        "INSERT INTO job (series_id, instance_id, revision, model, model_version, rank, available_at,"
        " first_received_at, last_received_at, created_at, shadow) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        [
            (
                series_id,
                instance_id,
                revision,
                a.model,
                a.model_version,
                created_at + (_BEHIND_ALL if a.shadow else 0),
                created_at,
                first_received_at,
                last_received_at,
                created_at,
                a.shadow,
            )
            for a in wanted
        ],
    )
    return len(wanted)
