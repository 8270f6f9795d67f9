"""What those ask who prepare for the jobs of a series while its images still arrive."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from appliance.domain.attributes import Attributes
from appliance.journal.database import Database
from appliance.journal.series import STABLE_AGE

_MOST = 32
"""Series that are followed at once: with more, those that will be complete first."""


@dataclass(frozen=True, slots=True)
class ArrivingSeries:
    """A series that is being received.

    ``sop_class_uid`` is that of its first instance, ``attributes`` too; ``image_count`` counts frames; ``ended`` says
    whether there is a sign that it will be complete at once.
    """

    series_id: int
    sop_class_uid: str
    attributes: Attributes
    image_count: int
    ended: bool


@dataclass(frozen=True, slots=True)
class ArrivedImage:
    """An instance that is here; ``path`` is relative to the spool, ``bytes`` the size of the file, ``sha256`` that of
    its data set.
    """

    instance_id: int
    path: str
    bytes: int
    sha256: str


class Following:
    """Reads what is being received. The order of images is that of ``ClaimedJob.images``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def changes(self) -> int:
        """A number that is another one when anybody else has committed since this thread asked last."""
        number: int = self._database.connection().execute("PRAGMA data_version").fetchone()[0]
        return number

    def arriving(self, share: int, shares: int) -> list[ArrivingSeries]:
        """The series that are being received, soonest complete first: one of ``shares`` parts of them, from 0 on."""
        rows = self._database.connection().execute(
            "SELECT series_id, attributes, image_count, sign,"
            " (SELECT sop_class_uid FROM instance WHERE instance.series_id = series.series_id LIMIT 1) AS sop_class_uid"
            " FROM series WHERE state = 'receiving' AND series_id % ? = ? ORDER BY settle_at LIMIT ?",
            (shares, share, _MOST),
        )
        return [
            ArrivingSeries(
                row["series_id"],
                row["sop_class_uid"],
                json.loads(row["attributes"]),
                row["image_count"],
                row["sign"] != STABLE_AGE,
            )
            for row in rows
            if row["sop_class_uid"] is not None
        ]

    def images(self, series_id: int, after: int) -> list[ArrivedImage]:
        """The instances of a series that came after the one with this id; with 0 all of them."""
        rows = self._database.connection().execute(
            "SELECT instance_id, path, bytes, sha256 FROM instance WHERE series_id = ? AND instance_id > ?"
            " ORDER BY instance_id",
            (series_id, after),
        )
        return [ArrivedImage(*row) for row in rows]

    def wanted(self, series_ids: Collection[int]) -> set[int]:
        """Those of these series that still arrive, or that a job waits for."""
        marks = ",".join("?" * len(series_ids))
        rows = self._database.connection().execute(
            f"SELECT series_id FROM series WHERE series_id IN ({marks}) AND (state = 'receiving' OR EXISTS (SELECT 1 "
            "FROM job WHERE job.series_id = series.series_id AND job.instance_id IS NULL AND job.state = 'queued'))",
            tuple(series_ids),
        )
        return {row["series_id"] for row in rows}
