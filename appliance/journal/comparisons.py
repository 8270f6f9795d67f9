"""What the active version and its shadow made of the same images."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import cast

from appliance.domain.states import JobState
from appliance.journal.database import Database
from appliance.journal.records import JudgedJob, ModelVersion, Spell
from appliance.manifest.manifest import Precision

_ENDED = "('succeeded', 'unsuitable', 'failed')"
# By the index of job_once, whose expression this has to repeat.
_TWIN = (
    "twin.series_id = job.series_id AND IFNULL(twin.instance_id, 0) = IFNULL(job.instance_id, 0)"
    " AND twin.revision = job.revision AND twin.model = job.model AND twin.model_version = ? AND twin.shadow = 0"
)
_PERIOD = "job.shadow = 1 AND job.model = ? AND job.model_version = ? AND job.created_at >= ? AND job.created_at < ?"


class Comparisons:
    """The part of the journal that compares shadows with what serves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def spell(self, model: str) -> Spell | None:
        """The latest time in which one version, at one precision, ran in the shadow of one that served."""
        rows = (
            self._database.connection()
            .execute("SELECT * FROM activation_event WHERE model = ? ORDER BY event_id DESC", (model,))
            .fetchall()
        )
        found: Spell | None = None
        until: float | None = None
        for row in rows:
            both = _both(row)
            if found is not None and both != (found.active, found.shadow):
                break
            if both is not None:
                found = Spell(model, *both, since=row["at"], until=until if found is None else found.until)
            until = row["at"]
        return found

    def pairs(self, spell: Spell, newest: int) -> Iterator[tuple[JudgedJob, JudgedJob]]:
        """The jobs of both versions that have ended, for the same images: active, then shadow; newest first."""
        connection = self._database.connection()
        rows = connection.execute(
            f"SELECT job.job_id AS shadow_id, twin.job_id AS active_id FROM job JOIN job twin ON {_TWIN}"
            f" WHERE {_PERIOD} AND job.state IN {_ENDED} AND twin.state IN {_ENDED} ORDER BY job.job_id DESC LIMIT ?",
            (spell.active.version, *_period(spell), newest),
        ).fetchall()
        for row in rows:
            yield _job(connection, row["active_id"]), _job(connection, row["shadow_id"])

    def waiting(self, spell: Spell) -> int:
        """How many of the shadow's jobs have not ended."""
        count: int = (
            self._database.connection()
            .execute(f"SELECT count(*) FROM job WHERE {_PERIOD} AND job.state IN ('queued', 'running')", _period(spell))
            .fetchone()[0]
        )
        return count


def _both(row: sqlite3.Row) -> tuple[ModelVersion, ModelVersion] | None:
    if row["version"] is None or row["shadow_version"] is None:
        return None
    active, shadow = (
        ModelVersion(row[f"{prefix}version"], cast(Precision, row[f"{prefix}precision"])) for prefix in ("", "shadow_")
    )
    return active, shadow


def _period(spell: Spell) -> tuple[str, str, float, float]:
    return spell.model, spell.shadow.version, spell.since, float("inf") if spell.until is None else spell.until


def _job(connection: sqlite3.Connection, job_id: int) -> JudgedJob:
    row = connection.execute("SELECT state, reason, message, result FROM job WHERE job_id = ?", (job_id,)).fetchone()
    segmentation = connection.execute("SELECT path FROM result WHERE job_id = ? AND kind = 'seg'", (job_id,)).fetchone()
    return JudgedJob(
        job_id=job_id,
        state=JobState(row["state"]),
        reason=row["reason"],
        message=row["message"],
        result=row["result"],
        segmentation=None if segmentation is None else segmentation["path"],
    )
