"""What of the procedure steps is to be sent on to the RIS: each step's messages in their order."""

from __future__ import annotations

from typing import Final

from appliance.domain.states import StepMessageState
from appliance.journal.database import Database
from appliance.journal.records import StepMessage, StepMessageView

_NEXT: Final = (
    "FROM step_message f INDEXED BY step_message_queued WHERE state = 'queued'"
    " AND NOT EXISTS (SELECT 1 FROM step_message earlier WHERE earlier.procedure_step_id = f.procedure_step_id"
    " AND earlier.state = 'queued' AND earlier.step_message_id < f.step_message_id)"
)
"""A message waits for the earlier ones of its step, but not for one that has failed: that may take days to mend."""


class StepMessages:
    """The part of the journal for whoever sends procedure steps on; one thread does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, now: float) -> StepMessage | None:
        """Count an attempt at the message that is due first and return it; ``None``: there is none."""
        with self._database.transaction() as connection:
            row = connection.execute(
                "UPDATE step_message SET attempts = attempts + 1 WHERE step_message_id ="
                f" (SELECT step_message_id {_NEXT} AND available_at <= ? ORDER BY step_message_id LIMIT 1) "
                "RETURNING step_message_id, procedure_step_id, operation, data_set, attempts, created_at",
                (now,),
            ).fetchone()
            if row is None:
                return None
            uid = connection.execute(
                "SELECT sop_instance_uid FROM procedure_step WHERE procedure_step_id = ?", (row["procedure_step_id"],)
            ).fetchone()[0]
        return StepMessage(
            row["step_message_id"], uid, row["operation"], row["data_set"], row["attempts"], row["created_at"]
        )

    def next_available_at(self) -> float | None:
        """When the next message is due (it may be in the past), or ``None``."""
        due: float | None = self._database.connection().execute(f"SELECT min(available_at) {_NEXT}").fetchone()[0]
        return due

    def delivered(self, step_message_id: int, now: float, status: int) -> None:
        """The RIS has it; ``status`` is that of its answer."""
        self._end(step_message_id, StepMessageState.DELIVERED, now, status, None)

    def fail(self, step_message_id: int, now: float, status: int | None, message: str) -> None:
        """It will not get through; it stays visible until an operator requeues it."""
        self._end(step_message_id, StepMessageState.FAILED, now, status, message)

    def postpone(self, step_message_id: int, available_at: float, status: int | None, message: str) -> None:
        """It did not get through and is tried again at ``available_at``."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE step_message SET available_at = ?, status = ?, message = ? WHERE step_message_id = ?",
                (available_at, status, message, step_message_id),
            )

    def delay(self, now: float, give_up_before: float, message: str) -> int:
        """None gets through, for this reason: fail those from before ``give_up_before``, and return how many."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE step_message SET message = ? WHERE step_message_id ="
                " (SELECT min(step_message_id) FROM step_message WHERE state = 'queued')",
                (message,),
            )
            return connection.execute(
                "UPDATE step_message SET state = 'failed', finished_at = ?, message = ? "
                "WHERE state = 'queued' AND created_at < ?",
                (now, message, give_up_before),
            ).rowcount

    def requeue(self, now: float) -> int:
        """Send failed messages again; return how many."""
        with self._database.transaction() as connection:
            return connection.execute(
                "UPDATE step_message SET state = 'queued', attempts = 0, available_at = ?, created_at = ?,"
                " finished_at = NULL, message = NULL WHERE state = 'failed'",
                (now, now),
            ).rowcount

    def undone(self) -> list[StepMessageView]:
        """The messages that are not done, by state."""
        views = []
        for state in (StepMessageState.FAILED, StepMessageState.QUEUED):
            table = f"FROM step_message INDEXED BY step_message_{state} WHERE state = '{state}'"
            row = (
                self._database.connection()
                .execute(
                    "SELECT count(*) AS number, min(created_at) AS oldest,"
                    f" (SELECT message {table} AND message IS NOT NULL ORDER BY step_message_id LIMIT 1) AS message "
                    f"{table}"
                )
                .fetchone()
            )
            if row["number"]:
                views.append(StepMessageView(state, row["number"], row["oldest"], row["message"]))
        return views

    def _end(
        self, step_message_id: int, state: StepMessageState, now: float, status: int | None, message: str | None
    ) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE step_message SET state = ?, finished_at = ?, status = ?, message = ? WHERE step_message_id = ?",
                (state, now, status, message, step_message_id),
            )
