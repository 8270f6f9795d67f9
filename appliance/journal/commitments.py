"""Storage commitment (PS3.4 annex J): who asked for which instances, what became of them, and whether they know."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from appliance.domain.commitment import CommitmentReference
from appliance.domain.states import CommitmentState
from appliance.journal.database import Database

_KEPT_S: Final = 30 * 86400.0
"""A commitment that is reported is forgotten this long after it was asked for."""

_MISSING: Final = (
    "SELECT 1 FROM commitment_reference r WHERE r.commitment_id = c.commitment_id AND NOT EXISTS"
    " (SELECT 1 FROM instance i WHERE i.sop_instance_uid = r.sop_instance_uid)"
)

NEEDED: Final = (
    "SELECT 1 FROM instance JOIN commitment_reference USING (sop_instance_uid) JOIN commitment USING (commitment_id)"
    " WHERE commitment.state IN ('pending', 'queued')"
)
"""SQL: the instances that an open commitment needs; goes on with a condition on ``instance``."""


@dataclass(frozen=True, slots=True)
class PendingCommitment:
    """One that is to be judged at ``judge_at``, or once ``is_here``: all that it names."""

    commitment_id: int
    judge_at: float
    is_here: bool


@dataclass(frozen=True, slots=True)
class NamedInstance:
    """What a request names, and what is here under its UID: ``path`` is relative to the spool, ``None``: nothing is."""

    sop_class_uid: str
    sop_instance_uid: str
    found_sop_class_uid: str | None
    path: str | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """A report that is to be sent; ``attempt`` is the number of this one on an association of our own."""

    commitment_id: int
    transaction_uid: str
    ae_title: str
    address: str
    attempt: int
    created_at: float
    references: tuple[CommitmentReference, ...]


@dataclass(frozen=True, slots=True)
class CommitmentView:
    """The commitments to one peer in one state; ``message`` is why the oldest that was tried is not reported."""

    ae_title: str
    state: CommitmentState
    count: int
    oldest_created_at: float
    message: str | None


class Commitments:
    """The part of the journal for the Storage Commitment SCP and whoever sends its reports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(
        self,
        transaction_uid: str,
        references: Sequence[CommitmentReference],
        *,
        ae_title: str,
        address: str,
        judge_at: float,
        now: float,
    ) -> int | None:
        """Keep a request, durably; return its number, ``None`` when its UID stands for other instances already.

        A repeat of a request that is open changes nothing; one that was reported, or given up, is judged again.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM commitment WHERE created_at < ? AND state = 'reported'",
                (now - _KEPT_S,),
            )
            row = connection.execute(
                "SELECT commitment_id FROM commitment WHERE ae_title = ? AND transaction_uid = ?",
                (ae_title, transaction_uid),
            ).fetchone()
            if row is not None:
                return _ask_again(connection, row["commitment_id"], references, address, judge_at, now)
            commitment_id: int = connection.execute(
                "INSERT INTO commitment (transaction_uid, ae_title, address, judge_at, available_at, created_at)"
                " VALUES (?,?,?,?,?,?) RETURNING commitment_id",
                (transaction_uid, ae_title, address, judge_at, judge_at, now),
            ).fetchone()[0]
            connection.executemany(
                "INSERT OR IGNORE INTO commitment_reference (commitment_id, sop_instance_uid, sop_class_uid)"
                " VALUES (?,?,?)",
                [(commitment_id, reference.sop_instance_uid, reference.sop_class_uid) for reference in references],
            )
        return commitment_id

    def pending(self, limit: int = 100) -> list[PendingCommitment]:
        """Those that are not judged yet, oldest first."""
        rows = self._database.connection().execute(
            f"SELECT commitment_id, judge_at, NOT EXISTS ({_MISSING}) AS is_here FROM commitment c "
            "WHERE state = 'pending' ORDER BY created_at LIMIT ?",
            (limit,),
        )
        return [PendingCommitment(row["commitment_id"], row["judge_at"], bool(row["is_here"])) for row in rows]

    def named(self, commitment_id: int) -> list[NamedInstance]:
        """What a request names, and whether it is here."""
        rows = self._database.connection().execute(
            "SELECT r.sop_class_uid, r.sop_instance_uid, i.sop_class_uid AS found_sop_class_uid, path, bytes "
            "FROM commitment_reference r LEFT JOIN instance i USING (sop_instance_uid) WHERE commitment_id = ?",
            (commitment_id,),
        )
        return [NamedInstance(**row) for row in rows]

    def judged(self, commitment_id: int, references: Sequence[CommitmentReference], available_at: float) -> bool:
        """Keep what the report says; it may be sent from ``available_at`` on. ``False`` when it was judged before."""
        with self._database.transaction() as connection:
            moved = connection.execute(
                "UPDATE commitment SET state = 'queued', available_at = ? "
                "WHERE commitment_id = ? AND state = 'pending'",
                (available_at, commitment_id),
            ).rowcount
            if moved:
                connection.executemany(
                    "UPDATE commitment_reference SET failure = ? "
                    "WHERE commitment_id = ? AND sop_instance_uid = ? AND sop_class_uid = ?",
                    [(r.failure, commitment_id, r.sop_instance_uid, r.sop_class_uid) for r in references],
                )
        return moved == 1

    def whole_series(self, commitment_id: int) -> list[int]:
        """The series of which a request names every instance that is here, and at least two.

        One alone says nothing, as there are modalities that ask for each image on its own.
        """
        rows = self._database.connection().execute(
            "SELECT series_id FROM commitment_reference JOIN instance USING (sop_instance_uid)"
            " JOIN series USING (series_id) WHERE commitment_id = ? AND state = 'receiving' "
            "GROUP BY series_id HAVING count(DISTINCT instance_id) > 1 AND count(DISTINCT instance_id) ="
            " (SELECT count(*) FROM instance other WHERE other.series_id = series.series_id)",
            (commitment_id,),
        )
        return [row["series_id"] for row in rows]

    def report(self, commitment_id: int) -> CommitmentReport | None:
        """The report of a commitment that is judged and not reported; else ``None``."""
        connection = self._database.connection()
        row = connection.execute(
            "SELECT * FROM commitment WHERE commitment_id = ? AND state = 'queued'", (commitment_id,)
        ).fetchone()
        return None if row is None else _report(connection, row)

    def begin(self, now: float, *, peer: tuple[str, str] | None = None) -> CommitmentReport | None:
        """Count an attempt at the report that is due first, of all or of one peer (AE title, address); return it."""
        of_peer = "AND ae_title = ? AND address = ?" if peer is not None else ""
        with self._database.transaction() as connection:
            row = connection.execute(
                "UPDATE commitment SET attempts = attempts + 1 WHERE commitment_id ="
                f" (SELECT commitment_id FROM commitment WHERE state = 'queued' AND available_at <= ? {of_peer}"
                "  ORDER BY available_at LIMIT 1) RETURNING *",
                (now, *(peer or ())),
            ).fetchone()
            return None if row is None else _report(connection, row)

    def next_available_at(self) -> float | None:
        """When the next report is due (it may be in the past), or ``None``."""
        due: float | None = (
            self._database.connection()
            .execute("SELECT min(available_at) FROM commitment WHERE state = 'queued'")
            .fetchone()[0]
        )
        return due

    def reported(self, commitment_id: int, now: float, status: int) -> bool:
        """The peer has answered the report with this status; ``False`` when that was known."""
        return self._end(commitment_id, CommitmentState.REPORTED, now, status, None)

    def fail(self, commitment_id: int, now: float, status: int | None, message: str) -> None:
        """The report will not get through; it stays visible until the peer asks again or an operator requeues it."""
        self._end(commitment_id, CommitmentState.FAILED, now, status, message)

    def postpone(self, commitment_id: int, available_at: float, status: int | None, message: str | None) -> None:
        """The report is sent, or tried again, from ``available_at`` on."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE commitment SET available_at = ?, status = ifnull(?, status), message = ifnull(?, message) "
                "WHERE commitment_id = ? AND state = 'queued'",
                (available_at, status, message, commitment_id),
            )

    def delay(self, peer: tuple[str, str], available_at: float, given_up_before: float, message: str) -> int:
        """No report gets through to this peer (AE title, address); return how many, too old, are failed by it."""
        with self._database.transaction() as connection:
            failed = connection.execute(
                "UPDATE commitment SET state = 'failed', finished_at = ?, message = 'given up; ' || ? "
                "WHERE state = 'queued' AND ae_title = ? AND address = ? AND created_at < ?",
                (available_at, message, *peer, given_up_before),
            ).rowcount
            connection.execute(
                "UPDATE commitment SET available_at = max(available_at, ?), message = ? "
                "WHERE state = 'queued' AND ae_title = ? AND address = ?",
                (available_at, message, *peer),
            )
        return failed

    def requeue(self, now: float) -> int:
        """Judge again at once those whose report failed, and report them; return how many."""
        with self._database.transaction() as connection:
            return connection.execute(
                "UPDATE commitment SET state = 'pending', attempts = 0, judge_at = ?, available_at = ?, created_at = ?,"
                " finished_at = NULL, message = NULL WHERE state = 'failed'",
                (now, now, now),
            ).rowcount

    def undone(self) -> list[CommitmentView]:
        """The reports that wait or failed, by peer and state."""
        rows = self._database.connection().execute(
            "SELECT ae_title, state, count(*) AS number, min(created_at) AS oldest, max(message) AS message "
            "FROM commitment WHERE state = 'queued' GROUP BY ae_title "
            "UNION ALL SELECT ae_title, state, count(*), min(created_at), max(message) "
            "FROM commitment WHERE state = 'failed' GROUP BY ae_title ORDER BY ae_title, state"
        )
        return [
            CommitmentView(row["ae_title"], CommitmentState(row["state"]), row["number"], row["oldest"], row["message"])
            for row in rows
        ]

    def _end(
        self, commitment_id: int, state: CommitmentState, now: float, status: int | None, message: str | None
    ) -> bool:
        with self._database.transaction() as connection:
            return (
                connection.execute(
                    "UPDATE commitment SET state = ?, finished_at = ?, status = ?, message = ? "
                    "WHERE commitment_id = ? AND state = 'queued'",
                    (state, now, status, message, commitment_id),
                ).rowcount
                == 1
            )


def _ask_again(
    connection: sqlite3.Connection,
    commitment_id: int,
    references: Sequence[CommitmentReference],
    address: str,
    judge_at: float,
    now: float,
) -> int | None:
    rows = connection.execute(
        "SELECT sop_class_uid, sop_instance_uid FROM commitment_reference WHERE commitment_id = ?", (commitment_id,)
    )
    if {tuple(row) for row in rows} != {(r.sop_class_uid, r.sop_instance_uid) for r in references}:
        return None
    connection.execute(
        "UPDATE commitment SET state = 'pending', address = ?, judge_at = ?, available_at = ?, created_at = ?,"
        " attempts = 0, finished_at = NULL, status = NULL, message = NULL "
        "WHERE commitment_id = ? AND state IN ('reported', 'failed')",
        (address, judge_at, judge_at, now, commitment_id),
    )
    return commitment_id


def _report(connection: sqlite3.Connection, row: sqlite3.Row) -> CommitmentReport:
    references = connection.execute(
        "SELECT sop_class_uid, sop_instance_uid, failure FROM commitment_reference WHERE commitment_id = ?",
        (row["commitment_id"],),
    )
    return CommitmentReport(
        row["commitment_id"],
        row["transaction_uid"],
        row["ae_title"],
        row["address"],
        row["attempts"],
        row["created_at"],
        tuple(CommitmentReference(**reference) for reference in references),
    )
