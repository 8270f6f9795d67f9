"""The outbox: each result object, and each image that is forwarded, on its way to each destination, on its own."""

from __future__ import annotations

from collections.abc import Iterable

from appliance.journal.database import Database
from appliance.journal.records import Answered, ClaimedDelivery

_RESULTS = (
    "SELECT d.delivery_id, d.destination, d.attempts + 1 AS attempt, d.created_at, r.kind, r.sop_class_uid,"
    " r.sop_instance_uid, r.transfer_syntax_uid, r.path, r.bytes, r.sha256, j.job_id, j.model, j.last_received_at "
    "FROM delivery d INDEXED BY delivery_queued_result JOIN result r USING (result_id) JOIN job j USING (job_id) "
    "WHERE d.state = 'queued' AND d.result_id IS NOT NULL AND d.destination = ? AND d.available_at <= ? "
    "ORDER BY d.available_at, d.delivery_id LIMIT ?"
)
_IMAGES = (
    "SELECT d.delivery_id, d.destination, d.attempts + 1 AS attempt, d.created_at, 'image' AS kind, i.sop_class_uid,"
    " i.sop_instance_uid, i.transfer_syntax_uid, i.path, i.bytes, i.sha256, NULL AS job_id, NULL AS model,"
    " i.received_at AS last_received_at "
    "FROM delivery d INDEXED BY delivery_queued_instance JOIN instance i USING (instance_id) "
    "WHERE d.state = 'queued' AND d.instance_id IS NOT NULL AND d.destination = ? AND d.available_at <= ? "
    "ORDER BY d.available_at, d.delivery_id LIMIT ?"
)


class Deliveries:
    """The sender's part of the journal."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, destination: str, now: float, limit: int) -> list[ClaimedDelivery]:
        """Take up to ``limit`` deliveries that are due: results first, each kind in the order in which they were made.

        A power failure may forget that they were taken, which is what ``recover`` would do with them.
        """
        with self._database.transaction(durable=False) as connection:
            rows = connection.execute(_RESULTS, (destination, now, limit)).fetchall()
            rows += connection.execute(_IMAGES, (destination, now, limit - len(rows))).fetchall()
            connection.executemany(
                "UPDATE delivery SET state = 'sending', attempts = attempts + 1 WHERE delivery_id = ?",
                [(row["delivery_id"],) for row in rows],
            )
        return [ClaimedDelivery(**dict(row)) for row in rows]

    def next_available_at(self, destination: str) -> float | None:
        """When the next delivery to this destination is due (it may be in the past), or ``None``."""
        connection = self._database.connection()
        found = [
            connection.execute(
                f"SELECT min(available_at) FROM delivery INDEXED BY delivery_queued_{kind} "
                f"WHERE state = 'queued' AND {kind}_id IS NOT NULL AND destination = ?",
                (destination,),
            ).fetchone()[0]
            for kind in ("result", "instance")
        ]
        return min((available for available in found if available is not None), default=None)

    def bring_forward(self, destination: str, now: float) -> None:
        """Let all that waits for this destination be due now, and give it no more time than from now on."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE delivery SET available_at = ?1, created_at = min(created_at, ?1) "
                "WHERE state = 'queued' AND destination = ?2 AND available_at > ?1",
                (now, destination),
            )

    def delivered(self, answered: Iterable[Answered]) -> None:
        """Destinations have these objects.

        On the disk with the next commit that is, or after ``Journal.flush``: a process that is killed forgets nothing,
        and after a power failure the destination sees the same UIDs again.
        """
        with self._database.transaction(durable=False) as connection:
            connection.executemany(
                "UPDATE delivery SET state = 'delivered', finished_at = ?, status = ?, message = NULL "
                "WHERE delivery_id = ?",
                [(answer.at, answer.status, answer.delivery.delivery_id) for answer in answered],
            )

    def postpone(
        self, delivery_id: int, available_at: float, status: int | None, message: str | None, *, counted: bool = True
    ) -> None:
        """It did not get through and is tried again at ``available_at``; an attempt never made is not counted."""
        self._move(delivery_id, "queued", None, status, message, available_at=available_at, counted=counted)

    def fail(self, delivery_id: int, now: float, status: int | None, message: str) -> None:
        """It will not get through; it stays visible until an operator requeues it."""
        self._move(delivery_id, "failed", now, status, message, available_at=None)

    def recover(self, destination: str) -> int:
        """Queue what an earlier life of the sender left in flight; the destination sees the same UID again."""
        with self._database.transaction() as connection:
            return connection.execute(
                "UPDATE delivery SET state = 'queued' WHERE state = 'sending' AND destination = ?", (destination,)
            ).rowcount

    def requeue(self, now: float, destination: str | None = None) -> int:
        """Send failed deliveries again, of one destination or of all; return how many."""
        with self._database.transaction() as connection:
            return connection.execute(
                "UPDATE delivery SET state = 'queued', attempts = 0, available_at = ?, created_at = ?,"
                " finished_at = NULL, message = NULL WHERE state = 'failed' AND (? IS NULL OR destination = ?)",
                (now, now, destination, destination),
            ).rowcount

    def _move(
        self,
        delivery_id: int,
        state: str,
        finished_at: float | None,
        status: int | None,
        message: str | None,
        *,
        available_at: float | None,
        counted: bool = True,
    ) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE delivery SET state = ?, finished_at = ?, status = ?, message = ?,"
                " available_at = IFNULL(?, available_at), attempts = attempts - ? WHERE delivery_id = ?",
                (state, finished_at, status, message, available_at, 0 if counted else 1, delivery_id),
            )
