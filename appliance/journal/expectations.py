"""What is known from elsewhere about the images that a series should have."""

from __future__ import annotations

from typing import Final

from appliance.journal.database import Database
from appliance.journal.records import QuietSeries
from appliance.journal.series import NOTHING_MISSING, STABLE_AGE

PACS_COUNT: Final = "pacs count"
"""The sign of a series that is complete because the PACS has no more of it."""


class Expectations:
    """The part of the journal for those who look elsewhere whether a series is whole."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def quiet(self, before: float, now: float, limit: int = 100) -> list[QuietSeries]:
        """The series that wait for their stable age and have had no image since ``before``, the longest first."""
        rows = self._database.connection().execute(
            "SELECT series_id, study_instance_uid, series_instance_uid, image_count,"
            " (SELECT count(*) FROM instance WHERE instance.series_id = series.series_id) AS instances "
            "FROM series JOIN study USING (study_id) "
            "WHERE state = 'receiving' AND settle_at > ? AND sign = ? AND last_received_at <= ? "
            "ORDER BY last_received_at LIMIT ?",
            (now, STABLE_AGE, before, limit),
        )
        return [QuietSeries(**row) for row in rows]

    def note_count(self, series: QuietSeries, instances: int) -> None:
        """Note how many instances of the series the PACS has: while fewer are here, no end mark counts."""
        short = max(0, instances - series.instances)
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE series SET counted = :counted WHERE series_id = :series_id AND counted <> :counted",
                {"series_id": series.series_id, "counted": series.image_count + short if short else 0},
            )

    def confirm(self, series: QuietSeries, now: float) -> bool:
        """The PACS has as many as are here, and no more come: complete at once, unless one came in between."""
        with self._database.transaction() as connection:
            return (
                connection.execute(
                    "UPDATE series SET settle_at = ?, sign = ? "
                    "WHERE series_id = ? AND state = 'receiving' AND image_count = ? AND settle_at > ? "
                    f"AND {NOTHING_MISSING}",
                    (now, PACS_COUNT, series.series_id, series.image_count, now),
                ).rowcount
                == 1
            )
