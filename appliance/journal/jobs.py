"""Jobs: claimed under a lease, ended in one transaction with everything that follows from them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from appliance.domain.states import Scope
from appliance.errors import JournalError
from appliance.journal.activations import generation
from appliance.journal.database import Database
from appliance.journal.records import ClaimedJob, ResultRow


class LeaseLost(JournalError):
    """The job was given to another worker meanwhile: what this one made of it is dropped."""


class ActivationsChanged(JournalError):
    """Another version serves now, or will: whoever claims has to look again which models it runs."""


_FOLLOWS = (
    "(revision = 1 OR NOT EXISTS (SELECT 1 FROM job earlier WHERE earlier.series_id = job.series_id"
    " AND earlier.state = 'running' AND earlier.revision < job.revision AND earlier.instance_id IS NULL"
    " AND earlier.model = job.model AND earlier.shadow = job.shadow))"
)
"""SQL: no worker is at an earlier revision of the same images. Its report would be sent after the one that replaces it,
and the latter could not name it."""


class Jobs:
    """The workers' part of the journal."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self,
        owner: str,
        now: float,
        lease_s: float,
        *,
        generation_known: int | None = None,
        not_yet: Sequence[tuple[str, str, bool]] = (),
    ) -> ClaimedJob | None:
        """Take the next job, or ``None`` when none waits. The attempt is counted here, so that a job that kills its
        worker cannot do so for ever. Jobs of shadows come after all others.

        Parameters
        ----------
        generation_known
            What ``Activations.generation`` was when the worker learnt which models it runs.
        not_yet
            Model, version and shadow of those that it is still opening: their jobs are left alone.

        Raises
        ------
        ActivationsChanged
            The generation is another one by now.
        """
        with self._database.transaction() as connection:
            # Within the transaction: no job is begun on a version that had stopped serving before.
            if generation_known is not None and generation(connection) != generation_known:
                raise ActivationsChanged("another version of a model serves now", mend="Nothing: it is opened")
            waiting = connection.execute(
                "SELECT job_id FROM job INDEXED BY job_queued WHERE state = 'queued'"
                f" AND available_at <= ?{_except(not_yet)} ORDER BY rank",
                (now, *_flat(not_yet)),
            )
            row = None
            # Read step by step: nearly always the first one is it.
            while row is None and (candidate := waiting.fetchone()) is not None:
                row = connection.execute(
                    "UPDATE job SET state = 'running', owner = ?, lease_until = ?, claimed_at = ?,"
                    f" attempts = attempts + 1 WHERE job_id = ? AND {_FOLLOWS} RETURNING *",
                    (owner, now + lease_s, now, candidate["job_id"]),
                ).fetchone()
            waiting.close()
            if row is None:
                return None
            if row["instance_id"] is None:
                images = connection.execute(
                    "SELECT path, sha256 FROM instance WHERE series_id = ? AND revision <= ? ORDER BY instance_id",
                    (row["series_id"], row["revision"]),
                ).fetchall()
            else:
                images = connection.execute(
                    "SELECT path, sha256 FROM instance WHERE instance_id = ?", (row["instance_id"],)
                ).fetchall()
        return ClaimedJob(
            job_id=row["job_id"],
            attempt=row["attempts"],
            scope=Scope.SERIES if row["instance_id"] is None else Scope.INSTANCE,
            series_id=row["series_id"],
            instance_id=row["instance_id"],
            revision=row["revision"],
            model=row["model"],
            model_version=row["model_version"],
            shadow=bool(row["shadow"]),
            first_received_at=row["first_received_at"],
            last_received_at=row["last_received_at"],
            created_at=row["created_at"],
            claimed_at=now,
            images=tuple((found["path"], found["sha256"]) for found in images),
        )

    def predecessor(self, job: ClaimedJob) -> tuple[str, str] | None:
        """SOP and Series Instance UID of the newest SR that earlier revisions of these images led to, if any."""
        row = (
            self._database.connection()
            .execute(
                "SELECT r.sop_instance_uid, r.series_instance_uid FROM job j JOIN result r USING (job_id) "
                "WHERE j.series_id = ? AND j.instance_id IS NULL AND j.model = ? AND j.shadow = ? AND j.revision < ? "
                "AND r.kind = 'sr' ORDER BY j.revision DESC LIMIT 1",
                (job.series_id, job.model, job.shadow, job.revision),
            )
            .fetchone()
        )
        return None if row is None else (row["sop_instance_uid"], row["series_instance_uid"])

    def next_available_at(self, not_yet: Sequence[tuple[str, str, bool]] = ()) -> float | None:
        """When the next queued job may be claimed (it may be in the past), or ``None`` when none is queued.

        ``not_yet`` is that of ``claim``.
        """
        available: float | None = (
            self._database.connection()
            .execute(f"SELECT min(available_at) FROM job WHERE state = 'queued'{_except(not_yet)}", _flat(not_yet))
            .fetchone()[0]
        )
        return available

    def extend(self, owner: str, lease_until: float) -> None:
        """Keep all leases of a living worker."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE job SET lease_until = ? WHERE state = 'running' AND owner = ?", (lease_until, owner)
            )

    def succeed(
        self,
        job: ClaimedJob,
        owner: str,
        now: float,
        *,
        result_json: str,
        results: Sequence[ResultRow],
        destinations: Mapping[str, Sequence[str]],
        stages: Mapping[str, float],
    ) -> None:
        """End a job with its result objects, and one delivery for each object and destination that wants its kind;
        what a shadow made stays here.

        Parameters
        ----------
        destinations
            Name of each destination and the kinds of result it gets.
        stages
            Seconds that each stage took.

        Raises
        ------
        LeaseLost
            The job is no longer this worker's.
        """
        with self._database.transaction() as connection:
            self._end(connection, job, owner, now, "succeeded", None, None, stages)
            connection.execute("UPDATE job SET result = ? WHERE job_id = ?", (result_json, job.job_id))
            for result in results:
                result_id = connection.execute(
                    "INSERT INTO result (job_id, kind, sop_class_uid, sop_instance_uid, series_instance_uid,"
                    " transfer_syntax_uid, path, bytes, sha256) VALUES (?,?,?,?,?,?,?,?,?) RETURNING result_id",
                    (
                        job.job_id,
                        result.kind,
                        result.sop_class_uid,
                        result.sop_instance_uid,
                        result.series_instance_uid,
                        result.transfer_syntax_uid,
                        result.path,
                        result.bytes,
                        result.sha256,
                    ),
                ).fetchone()[0]
                if job.shadow:
                    continue
                connection.executemany(
                    "INSERT INTO delivery (result_id, destination, available_at, created_at) VALUES (?,?,?,?)",
                    [(result_id, name, now, now) for name, kinds in destinations.items() if result.kind in kinds],
                )

    def unsuitable(
        self, job: ClaimedJob, owner: str, now: float, reason: str, message: str, stages: Mapping[str, float]
    ) -> None:
        """End a job whose image the model cannot judge. Raises ``LeaseLost``."""
        with self._database.transaction() as connection:
            self._end(connection, job, owner, now, "unsuitable", reason, message, stages)

    def fail(
        self,
        job: ClaimedJob,
        owner: str,
        now: float,
        reason: str,
        message: str,
        *,
        retry_at: float | None,
        max_attempts: int,
    ) -> bool:
        """Note a failed attempt: queue the job again at ``retry_at``, or end it when no retry can help or is left.

        Returns whether it will be tried again. Raises ``LeaseLost``.
        """
        with self._database.transaction() as connection:
            if retry_at is None or job.attempt >= max_attempts:
                self._end(connection, job, owner, now, "failed", reason, message, {})
                return False
            self._require_lease(connection, job, owner)
            connection.execute(
                "UPDATE job SET state = 'queued', owner = NULL, lease_until = NULL, available_at = ?, reason = ?,"
                " message = ? WHERE job_id = ?",
                (retry_at, reason, message, job.job_id),
            )
            return True

    def give_back(self, job: ClaimedJob, owner: str) -> None:
        """Return a job that was not finished because the worker stops in good order; the attempt does not count."""
        with self._database.transaction() as connection:
            self._require_lease(connection, job, owner)
            connection.execute(
                "UPDATE job SET state = 'queued', owner = NULL, lease_until = NULL, attempts = attempts - 1 "
                "WHERE job_id = ?",
                (job.job_id,),
            )

    def recover(self, owner: str, now: float, max_attempts: int) -> int:
        """Return what an earlier life of this worker, or a worker whose lease ran out, left running.

        A job that has used up its attempts is failed instead: it may be what kills the workers. One of a shadow has
        one attempt. Returns how many were found.
        """
        return self._take_back("owner = ? OR lease_until < ?", (owner, now), now, max_attempts)

    def recover_expired(self, now: float, max_attempts: int) -> int:
        """Return what workers whose lease ran out left running, as ``recover`` does; not what this one holds."""
        return self._take_back("lease_until < ?", (now,), now, max_attempts)

    def _take_back(self, whose: str, arguments: tuple[str | float, ...], now: float, max_attempts: int) -> int:
        with self._database.transaction() as connection:
            given_up = connection.execute(
                "UPDATE job SET state = 'failed', owner = NULL, lease_until = NULL, finished_at = ?, reason = 'crash',"
                " message = 'the worker ended while it ran this job, ' || attempts || ' time(s); look at the worker''s"
                " log, then: appliance requeue' "
                f"WHERE state = 'running' AND ({whose}) AND (attempts >= ? OR shadow = 1)",
                (now, *arguments, max_attempts),
            ).rowcount
            returned = connection.execute(
                "UPDATE job SET state = 'queued', owner = NULL, lease_until = NULL "
                f"WHERE state = 'running' AND ({whose})",
                arguments,
            ).rowcount
        return given_up + returned

    def requeue(self, job_id: int, now: float) -> bool:
        """Let a failed or unsuitable job run again, with all its attempts; ``False`` when there is none such, or a late
        image has opened the next revision of its series since.
        """
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "UPDATE job SET state = 'queued', attempts = 0, available_at = ?, finished_at = NULL, reason = NULL,"
                " message = NULL WHERE job_id = ? AND state IN ('failed', 'unsuitable') AND (instance_id IS NOT NULL"
                " OR revision = (SELECT revision FROM series WHERE series.series_id = job.series_id))",
                (now, job_id),
            )
            requeued = cursor.rowcount == 1
            if requeued:  # its attempts begin anew, so that the times of the earlier ones would mix with theirs
                connection.execute("DELETE FROM stage WHERE job_id = ?", (job_id,))
            return requeued

    def require_lease(self, job: ClaimedJob, owner: str) -> None:
        """Raise ``LeaseLost`` unless the job is still this worker's: before anything that another one could have made
        is touched. Who only writes to the journal need not ask.
        """
        self._require_lease(self._database.connection(), job, owner)

    def _end(
        self,
        connection: sqlite3.Connection,
        job: ClaimedJob,
        owner: str,
        now: float,
        state: str,
        reason: str | None,
        message: str | None,
        stages: Mapping[str, float],
    ) -> None:
        self._require_lease(connection, job, owner)
        connection.execute(
            "UPDATE job SET state = ?, owner = NULL, lease_until = NULL, finished_at = ?, reason = ?, message = ? "
            "WHERE job_id = ?",
            (state, now, reason, message, job.job_id),
        )
        connection.executemany(
            "INSERT OR REPLACE INTO stage (job_id, attempt, stage, seconds) VALUES (?,?,?,?)",
            [(job.job_id, job.attempt, stage, seconds) for stage, seconds in stages.items()],
        )

    @staticmethod
    def _require_lease(connection: sqlite3.Connection, job: ClaimedJob, owner: str) -> None:
        held = connection.execute(
            "SELECT 1 FROM job WHERE job_id = ? AND state = 'running' AND owner = ? AND attempts = ?",
            (job.job_id, owner, job.attempt),
        ).fetchone()
        if held is None:
            raise LeaseLost(f"job {job.job_id} was given to another worker", mend="Nothing: the other one finishes it")


def _except(not_yet: Sequence[tuple[str, str, bool]]) -> str:
    """The condition that leaves out jobs of these models, for the values of ``_flat``."""
    return " AND NOT (model = ? AND model_version = ? AND shadow = ?)" * len(not_yet)


def _flat(not_yet: Sequence[tuple[str, str, bool]]) -> list[str | bool]:
    return [value for key in not_yet for value in key]
