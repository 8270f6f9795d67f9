"""The series that an instance belongs to, and when it may be called complete; ``intake/signs.py`` has the rules."""

from __future__ import annotations

import json
import sqlite3
from typing import Final, NamedTuple

from appliance.domain.states import SeriesState
from appliance.journal.records import ReceivedInstance

STABLE_AGE: Final = "stable age"
IMAGES_IN_ACQUISITION: Final = "images in acquisition"
"""Signs that a series is complete; others are named by whoever notes them."""

_LISTED: Final = "FROM expected_instance e WHERE e.series_instance_uid = series.series_instance_uid"

MISSING: Final = f"max(announced - image_count, counted - image_count, (SELECT count(*) {_LISTED}), 0)"
"""SQL: how many images a row of ``series`` is short of what is expected of it."""

NOTHING_MISSING: Final = f"max(announced, counted) <= image_count AND NOT EXISTS (SELECT 1 {_LISTED})"
"""SQL: that it is not short of any; quicker to find out."""


class OpenedSeries(NamedTuple):
    """The series of an instance that is being registered; see ``records.Registration``."""

    series_id: int
    revision: int
    reopened: bool
    awaited: bool


def open_series(
    connection: sqlite3.Connection, instance: ReceivedInstance, stable_age_s: float, settle_s: float
) -> OpenedSeries:
    """Find or make the series of an instance, count it in, and see whether it was the last one that was expected."""
    now = instance.received_at
    step = connection.execute(
        "DELETE FROM expected_instance WHERE sop_instance_uid = ? RETURNING procedure_step_id",
        (instance.sop_instance_uid,),
    ).fetchone()
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
        series_id, revision, reopened = _new_series(connection, study_id, instance, now + stable_age_s), 1, False
    else:
        series_id, reopened = row["series_id"], row["state"] == SeriesState.COMPLETE
        revision = row["revision"] + (1 if reopened else 0)
        connection.execute(
            # A number that not all images give is none.
            "UPDATE series SET state = 'receiving', revision = ?, image_count = image_count + ?,"
            " announced = iif(announced = ?, announced, 0), last_received_at = ?, settle_at = ?, sign = ? "
            "WHERE series_id = ?",
            (revision, instance.frames, instance.announced, now, now + stable_age_s, STABLE_AGE, series_id),
        )
    if reopened:
        connection.execute(
            "UPDATE job SET state = 'superseded', reason = 'late-image', finished_at = ?,"
            " message = 'a late image opened the next revision' "
            "WHERE series_id = ? AND instance_id IS NULL AND state = 'queued'",
            (now, series_id),
        )
    if step is not None:
        awaited = _settle_listed(connection, series_id, step["procedure_step_id"], now)
    else:
        awaited = instance.announced > 0 and _settle_announced(connection, series_id, now + min(settle_s, stable_age_s))
    return OpenedSeries(series_id, revision, reopened, awaited)


def _new_series(connection: sqlite3.Connection, study_id: int, instance: ReceivedInstance, settle_at: float) -> int:
    now = instance.received_at
    series_id: int = connection.execute(
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
            settle_at,
            STABLE_AGE,
        ),
    ).fetchone()[0]
    return series_id


def _settle_listed(connection: sqlite3.Connection, series_id: int, procedure_step_id: int, now: float) -> bool:
    """Complete at once, if all that the step listed of the series is here, whatever else is expected: it knows best."""
    return (
        connection.execute(
            "UPDATE series SET settle_at = ?,"
            " sign = 'mpps ' || (SELECT state FROM procedure_step WHERE procedure_step_id = ?) "
            f"WHERE series_id = ? AND NOT EXISTS (SELECT 1 {_LISTED})",
            (now, procedure_step_id, series_id),
        ).rowcount
        == 1
    )


def _settle_announced(connection: sqlite3.Connection, series_id: int, settle_at: float) -> bool:
    return (
        connection.execute(
            "UPDATE series SET settle_at = ?, sign = ? "
            f"WHERE series_id = ? AND announced = image_count AND {NOTHING_MISSING}",
            (settle_at, IMAGES_IN_ACQUISITION, series_id),
        ).rowcount
        == 1
    )
