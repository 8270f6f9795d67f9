"""Instances, and the series they belong to: what was received, and when a series may be called complete."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from appliance.domain.states import SeriesState
from appliance.journal.database import Database
from appliance.journal.records import Assessment, DueSeries, KnownInstance, ReceivedInstance, Registration

STABLE_AGE: Final = "stable age"
IMAGES_IN_ACQUISITION: Final = "images in acquisition"
"""Signs that a series is complete; the others are named by whoever notes them with ``settle``."""

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
            opened = _open_series(connection, instance, stable_age_s, settle_s)
            series_id, revision = opened["series_id"], opened["revision"]
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
        reopened = opened["state"] == SeriesState.COMPLETE
        return Registration(series_id, instance_id, revision, reopened, opened["sign"] != STABLE_AGE, jobs, forward_to)

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

        Where as many images are here as they announce, two signs agree, and it may be at once. Where fewer are here,
        or fewer than the PACS has, the mark was not the end: the stable age stays.

        Parameters
        ----------
        sign
            What the mark is, for example ``association released``; it is kept with the series.
        """
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE series SET settle_at = iif(announced = image_count, min(last_received_at, :at), :at),"
                " sign = iif(announced = image_count, :announced, :sign) "
                "WHERE series_id = :series_id AND state = 'receiving' AND max(announced, counted) <= image_count"
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
            "SELECT series_id, revision, sign, attributes, image_count,"
            " max(announced - image_count, counted - image_count, 0) AS missing FROM series "
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


def _open_series(
    connection: sqlite3.Connection, instance: ReceivedInstance, stable_age_s: float, settle_s: float
) -> Mapping[str, Any]:
    """Find or make the series of an instance.

    Returns its ``series_id`` and ``revision``, the ``state`` that it was in before (empty: it is new) and its ``sign``.
    """
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
            "INSERT INTO series (study_id, series_instance_uid, attributes, image_count, announced, first_received_at,"
            " last_received_at, settle_at, sign) VALUES (?,?,?,?,?,?,?,?,?) RETURNING series_id",
            (
                study_id,
                instance.series_instance_uid,
                json.dumps(dict(instance.attributes)),
                instance.frames,
                instance.announced,
                now,
                now,
                now + stable_age_s,
                STABLE_AGE,
            ),
        ).fetchone()[0]
        return {"series_id": series_id, "revision": 1, "state": "", "sign": STABLE_AGE}
    series_id, reopened = row["series_id"], row["state"] == SeriesState.COMPLETE
    revision = row["revision"] + (1 if reopened else 0)
    # The right-hand sides see the row as it was. A number that not all images give is none.
    whole = "announced = :announced AND announced = image_count + :frames"
    sign = connection.execute(
        "UPDATE series SET state = 'receiving', revision = :revision, image_count = image_count + :frames,"
        " announced = iif(announced = :announced, announced, 0), last_received_at = :now,"
        f" settle_at = iif({whole}, :settled, :stable), sign = iif({whole}, :announced_sign, :stable_sign) "
        "WHERE series_id = :series_id RETURNING sign",
        {
            "revision": revision,
            "frames": instance.frames,
            "announced": instance.announced,
            "now": now,
            "settled": now + min(settle_s, stable_age_s),
            "stable": now + stable_age_s,
            "announced_sign": IMAGES_IN_ACQUISITION,
            "stable_sign": STABLE_AGE,
            "series_id": series_id,
        },
    ).fetchone()[0]
    if reopened:
        connection.execute(
            "UPDATE job SET state = 'superseded', reason = 'late-image', finished_at = ?,"
            " message = 'a late image opened the next revision' "
            "WHERE series_id = ? AND instance_id IS NULL AND state = 'queued'",
            (now, series_id),
        )
    return {"series_id": series_id, "revision": revision, "state": row["state"], "sign": sign}


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
