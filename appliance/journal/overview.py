"""Questions about the whole: for the status command, the metrics and the tests. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.domain.states import DeliveryState, JobState, Scope, SeriesState
from appliance.journal.database import Database
from appliance.journal.records import DeliveryView, JobView, SeriesView
from appliance.journal.series import MISSING

_OLDEST_UNDONE = (
    "(SELECT min(created_at) FROM delivery INDEXED BY delivery_undone"
    " WHERE delivery.destination = told.destination AND delivery.state = told.state"
    " AND delivery.state IN ('queued', 'sending', 'failed'))"
)
_NEWEST_ASSESSMENTS = 1000
"""Among so many refusals are looked for, so that a long time without any costs nothing."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Since when the oldest of each kind waits (seconds since 1970), ``None`` where none does."""

    series: float | None
    job: float | None
    delivery: float | None
    step_message: float | None
    commitment: float | None


@dataclass(frozen=True, slots=True)
class KeptApart:
    """Instances whose UID was here with other content; files that could not be taken, and why the newest could not."""

    conflicts: int
    rejections: int
    newest_rejection: str | None


class Overview:
    """The readers' part of the journal."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tally(self) -> dict[str, dict[str, int]]:
        """Rows by machine (``series``, ``job``, ``delivery``) and state; costs the same however many rows there are.

        Jobs of shadows are not among ``job`` but counted on their own, as ``shadow``.
        """
        result: dict[str, dict[str, int]] = {}
        for row in self._database.connection().execute("SELECT machine, state, rows FROM tally"):
            result.setdefault(row["machine"], {})[row["state"]] = row["rows"]
        return result

    def waiting(self) -> Waiting:
        """The oldest of what waits; for a shadow's job nobody does. Costs the same however much waits."""
        connection = self._database.connection()
        series, job, delivery, step_message, commitment = (
            connection.execute(query).fetchone()[0]
            for query in (
                "SELECT min(first_received_at) FROM series WHERE state = 'receiving'",
                "SELECT min(created_at) FROM job WHERE state = 'queued' AND shadow = 0",
                f"SELECT min({_OLDEST_UNDONE}) FROM delivery_tally told WHERE state = 'queued' AND rows > 0",
                "SELECT min(created_at) FROM step_message INDEXED BY step_message_queued WHERE state = 'queued'",
                "SELECT min(created_at) FROM commitment INDEXED BY commitment_waiting WHERE state = 'queued'",
            )
        )
        return Waiting(series, job, delivery, step_message, commitment)

    def series(self, limit: int) -> list[SeriesView]:
        """The newest series, newest first."""
        rows = self._database.connection().execute(
            f"SELECT series_id, state, revision, sign, image_count, {MISSING} AS missing, last_received_at,"
            " (SELECT count(*) FROM instance i WHERE i.series_id = series.series_id AND i.revision > 1) AS late "
            "FROM series ORDER BY series_id DESC LIMIT ?",
            (limit,),
        )
        return [SeriesView(**{**row, "state": SeriesState(row["state"])}) for row in rows]

    def jobs(self, limit: int) -> list[JobView]:
        """The newest jobs, newest first."""
        return self._jobs("SELECT * FROM job ORDER BY job_id DESC LIMIT ?", limit)

    def failed_jobs(self, limit: int) -> list[JobView]:
        """The newest failed jobs, newest first, without those of shadows."""
        return self._jobs("SELECT * FROM job WHERE state = 'failed' AND shadow = 0 ORDER BY job_id DESC LIMIT ?", limit)

    def _jobs(self, query: str, limit: int) -> list[JobView]:
        return [
            JobView(
                job_id=row["job_id"],
                state=JobState(row["state"]),
                model=row["model"],
                model_version=row["model_version"],
                shadow=bool(row["shadow"]),
                scope=Scope.SERIES if row["instance_id"] is None else Scope.INSTANCE,
                revision=row["revision"],
                attempts=row["attempts"],
                reason=row["reason"],
                message=row["message"],
                last_received_at=row["last_received_at"],
                created_at=row["created_at"],
                finished_at=row["finished_at"],
            )
            for row in self._database.connection().execute(query, (limit,))
        ]

    def deliveries(self) -> list[DeliveryView]:
        """Deliveries that are not done, by destination and state."""
        # The newest one that says anything: what joined the queue after it has not been tried yet.
        rows = self._database.connection().execute(
            f"SELECT destination, state, rows AS number, {_OLDEST_UNDONE} AS oldest,"
            " (SELECT message FROM delivery INDEXED BY delivery_told"
            "  WHERE delivery.destination = told.destination AND delivery.state = told.state"
            "  AND delivery.state IN ('queued', 'sending', 'failed') AND message IS NOT NULL"
            "  ORDER BY delivery_id DESC LIMIT 1) AS message "
            "FROM delivery_tally told WHERE state IN ('queued', 'sending', 'failed') AND rows > 0 "
            "ORDER BY destination, state"
        )
        return [
            DeliveryView(row["destination"], DeliveryState(row["state"]), row["number"], row["oldest"], row["message"])
            for row in rows
        ]

    def refusals(self, limit: int) -> list[tuple[int, str, str]]:
        """The newest refusals of the versions that serve, among the last answers: series id, model and reason."""
        rows = self._database.connection().execute(
            "SELECT series_id, model, refusal FROM assessment WHERE refusal IS NOT NULL AND shadow = 0 "
            "AND rowid > (SELECT max(rowid) FROM assessment) - ? ORDER BY rowid DESC LIMIT ?",
            (_NEWEST_ASSESSMENTS, limit),
        )
        return [(row["series_id"], row["model"], row["refusal"]) for row in rows]

    def kept_apart(self) -> KeptApart:
        """What came in but is in no series."""
        connection = self._database.connection()
        conflicts = connection.execute("SELECT count(*) FROM conflict").fetchone()[0]
        rejections = connection.execute("SELECT count(*) FROM rejection").fetchone()[0]
        newest = connection.execute("SELECT message FROM rejection ORDER BY rejection_id DESC LIMIT 1").fetchone()
        return KeptApart(conflicts, rejections, None if newest is None else newest["message"])

    def lost(self) -> dict[int, int]:
        """How many images of each series have lost their files, as ``appliance doctor`` noted; mostly empty."""
        rows = self._database.connection().execute(
            # Crossed, so that the few are looked up among the many, and not the other way round.
            "SELECT series_id, count(*) AS lost FROM lost_instance CROSS JOIN instance USING (instance_id)"
            " GROUP BY series_id"
        )
        return {row["series_id"]: row["lost"] for row in rows}

    def stages(self, job_id: int) -> dict[str, float]:
        """Seconds that each stage of a job's last attempt took."""
        rows = self._database.connection().execute(
            "SELECT stage, seconds FROM stage WHERE job_id = ? AND attempt = "
            "(SELECT max(attempt) FROM stage WHERE job_id = ?)",
            (job_id, job_id),
        )
        return {row["stage"]: row["seconds"] for row in rows}

    def delivered(self, job_id: int) -> dict[tuple[str, str], float]:
        """When each result of a job was acknowledged, by destination and kind of result."""
        rows = self._database.connection().execute(
            "SELECT d.destination, r.kind, d.finished_at FROM delivery d JOIN result r USING (result_id) "
            "WHERE r.job_id = ? AND d.state = 'delivered'",
            (job_id,),
        )
        return {(row["destination"], row["kind"]): row["finished_at"] for row in rows}
