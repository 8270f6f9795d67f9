"""Modality Performed Procedure Steps: what modalities said of their work, and the images that they list."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from typing import Final

from appliance.domain.states import ProcedureStepState
from appliance.journal.database import Database
from appliance.journal.records import ProcedureStep
from appliance.journal.series import STABLE_AGE

_KEPT_S: Final = 30 * 86400.0
"""A step is forgotten this long after it began, unless some of it still has to be sent on. The Standard asks for no
more than an answer to N-SET while the step goes on; images that come later than this were never coming."""


class ProcedureSteps:
    """The part of the journal for the MPPS SCP (PS3.4 annex F). Data sets are Explicit VR Little Endian."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, sop_instance_uid: str) -> ProcedureStep | None:
        """Return the step with this UID, or ``None``."""
        row = (
            self._database.connection()
            .execute(
                "SELECT procedure_step_id, state, changes, data_set FROM procedure_step WHERE sop_instance_uid = ?",
                (sop_instance_uid,),
            )
            .fetchone()
        )
        return None if row is None else ProcedureStep(**{**row, "state": ProcedureStepState(row["state"])})

    def create(self, sop_instance_uid: str, data_set: bytes, now: float, *, send_on: bool) -> bool:
        """Keep a step that has begun, durably; ``False`` when its UID is known already.

        ``send_on``: what came is to be sent on.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM procedure_step WHERE created_at < ? AND NOT EXISTS (SELECT 1 FROM step_message f"
                " WHERE f.procedure_step_id = procedure_step.procedure_step_id AND f.state IN ('queued', 'failed'))",
                (now - _KEPT_S,),
            )
            row = connection.execute(
                "INSERT OR IGNORE INTO procedure_step (sop_instance_uid, data_set, created_at) VALUES (?,?,?)"
                " RETURNING procedure_step_id",
                (sop_instance_uid, data_set, now),
            ).fetchone()
            if row is not None and send_on:
                _send_on(connection, row["procedure_step_id"], "N-CREATE", data_set, now)
        return row is not None

    def change(
        self,
        step: ProcedureStep,
        state: ProcedureStepState,
        data_set: bytes,
        now: float,
        *,
        modification: bytes,
        listed: Collection[tuple[str, str]] = (),
        stable_age_s: float,
        send_on: bool,
    ) -> bool:
        """Keep what an N-SET made of a step, durably; ``False`` when the step is another one by now: find it again.

        Parameters
        ----------
        data_set
            The whole of it.
        modification
            What came, to be sent on if ``send_on``.
        listed
            Series and SOP Instance UID of each image that a step which has ended names. A series of which all are here
            is complete at once; one of which some are missing waits for them.
        stable_age_s
            For how long, after its last image.
        """
        ended = state is not ProcedureStepState.IN_PROGRESS
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE procedure_step SET state = ?, changes = changes + 1, data_set = ?, ended_at = ? "
                "WHERE procedure_step_id = ? AND changes = ? AND state = ?",
                (state, data_set, now if ended else None, step.procedure_step_id, step.changes, step.state),
            ).rowcount
            if not changed:
                return False
            if send_on:
                _send_on(connection, step.procedure_step_id, "N-SET", modification, now)
            if ended:
                missing = _expect(connection, step.procedure_step_id, listed)
                _settle(connection, {uid for uid, _ in listed} - missing, missing, f"mpps {state}", now, stable_age_s)
        return True


def _send_on(
    connection: sqlite3.Connection, procedure_step_id: int, operation: str, data_set: bytes, now: float
) -> None:
    connection.execute(
        "INSERT INTO step_message (procedure_step_id, operation, data_set, available_at, created_at)"
        " VALUES (?,?,?,?,?)",
        (procedure_step_id, operation, data_set, now, now),
    )


def _expect(connection: sqlite3.Connection, procedure_step_id: int, listed: Iterable[tuple[str, str]]) -> set[str]:
    """Note which of the listed instances are not here; return the Series Instance UIDs that they belong to."""
    missing = set()
    for series_instance_uid, sop_instance_uid in listed:
        cursor = connection.execute(
            "INSERT OR REPLACE INTO expected_instance (sop_instance_uid, series_instance_uid, procedure_step_id)"
            " SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM instance WHERE sop_instance_uid = ?)",
            (sop_instance_uid, series_instance_uid, procedure_step_id, sop_instance_uid),
        )
        if cursor.rowcount:
            missing.add(series_instance_uid)
    return missing


def _settle(
    connection: sqlite3.Connection, whole: set[str], short: set[str], sign: str, now: float, stable_age_s: float
) -> None:
    """Let the series that are whole be complete; an end mark that came before the list was none where it is not."""
    # Few series are being received at any time; by their UIDs alone there is no index.
    update = "UPDATE series INDEXED BY series_receiving SET sign = ?, settle_at ="
    receiving = "WHERE state = 'receiving' AND series_instance_uid = ?"
    connection.executemany(f"{update} min(settle_at, ?) {receiving}", [(sign, now, uid) for uid in whole])
    connection.executemany(
        f"{update} last_received_at + ? {receiving}", [(STABLE_AGE, stable_age_s, uid) for uid in short]
    )
