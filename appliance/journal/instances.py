"""Instances, and the series they belong to: what was received, and when a series may be called complete."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

from appliance.journal.database import Database
from appliance.journal.records import Assessment, DueSeries, KnownInstance, ReceivedInstance, Registration
from appliance.journal.series import IMAGES_IN_ACQUISITION, MISSING, NOTHING_MISSING, open_series

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

    def found(self, instance_id: int) -> None:
        """The file of an image that was noted as lost is there again."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM lost_instance WHERE instance_id = ?", (instance_id,))

    def register(
        self,
        instance: ReceivedInstance,
        assessments: Sequence[Assessment],
        *,
        stable_age_s: float,
        settle_s: float = 0.0,
        forward_to: Sequence[str] = (),
    ) -> Registration:
        """Register an instance whose file and mark are durable; the mark stays until ``Journal.flush`` has returned.

        ``assessments`` are those of the one-instance models: each *yes* queues its job in the same transaction. A late
        image reopens its series as the next revision and supersedes jobs of the earlier one that have not started.

        Parameters
        ----------
        stable_age_s
            After this one, how long until the series may be called complete without a better sign.
        settle_s
            The same once as many images are here as all of them announce.
        forward_to
            The destinations that get this image; a delivery to each is queued in the same transaction.

        Raises
        ------
        sqlite3.IntegrityError
            The UID is already registered; ask ``find`` first, under a lock on the UID.
        """
        with self._database.transaction(durable=False) as connection:
            series_id, revision, reopened, awaited = open_series(connection, instance, stable_age_s, settle_s)
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
            connection.executemany(
                "INSERT INTO delivery (instance_id, destination, available_at, created_at) VALUES (?,?,?,?)",
                [(instance_id, name, instance.received_at, instance.received_at) for name in forward_to],
            )
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
        return Registration(series_id, instance_id, revision, reopened, awaited, jobs, forward_to)

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

        Where as many images are here as they announce, two signs agree, and it may be at once. While images are
        missing, the mark was not the end: the stable age stays.

        Parameters
        ----------
        sign
            What the mark is, for example ``association released``; it is kept with the series.
        """
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE series SET settle_at = iif(announced = image_count, min(last_received_at, :at), :at),"
                " sign = iif(announced = image_count, :announced, :sign) "
                f"WHERE series_id = :series_id AND state = 'receiving' AND {NOTHING_MISSING}"
                " AND settle_at > iif(announced = image_count, min(last_received_at, :at), :at)",
                [
                    {"at": settle_at, "sign": sign, "announced": IMAGES_IN_ACQUISITION, "series_id": series_id}
                    for series_id in series_ids
                ],
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
            f"SELECT series_id, revision, sign, attributes, image_count, {MISSING} AS missing FROM series "
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
                missing=row["missing"],
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
