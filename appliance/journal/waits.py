"""Waits that no clock can lengthen.

The journal says when something is due by the wall clock, which a restart survives. When that clock is set back, by NTP
or after it was wrong for a while, what was written before would wait for as long as the step was, days perhaps.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.journal.database import Database

_SLACK_S = 60.0
"""Between looking at the clock and holding the write lock half a minute may pass, in which others write."""


@dataclass(frozen=True, slots=True)
class LongestWaits:
    """How far ahead, in seconds, anything is ever due; what is further ahead was written by another clock.

    Attributes
    ----------
    series
        The wait for a sign that a series is complete.
    job
        The pause before a failed job is tried again.
    lease
        How long a worker holds a job without a sign of life.
    delivery
        The pause before a delivery, or a message about a procedure step, is tried again.
    commitment
        The wait of a storage commitment for its instances, or until its report is sent, or sent again.
    """

    series: float
    job: float
    lease: float
    delivery: float
    commitment: float


class Waits:
    """The part of the journal that sees to it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def shorten(self, now: float, longest: LongestWaits) -> int:
        """Bring what is due further ahead than anything can be back to ``now``; return how many rows it was.

        Series wait once more for an image, leases run from ``now``, all else is due. Nothing is written, and the write
        lock not taken, where there is nothing to do.
        """
        connection = self._database.connection()
        steps = [step for step in _steps(now, longest) if connection.execute(step.look, step.arguments).fetchone()]
        if not steps:
            return 0
        with self._database.transaction() as connection:
            return sum(connection.execute(step.change, step.arguments).rowcount for step in steps)


@dataclass(frozen=True, slots=True)
class _Step:
    look: str
    change: str
    arguments: dict[str, float]


def _steps(now: float, longest: LongestWaits) -> list[_Step]:
    def step(table: str, state: str, column: str, wait_s: float, due_s: float = 0.0, also: str = "") -> _Step:
        ahead = f"state = '{state}' AND {column} > :bound"
        return _Step(
            f"SELECT 1 FROM {table} WHERE {ahead} LIMIT 1",
            f"UPDATE {table} SET {column} = :due{also} WHERE {ahead}",
            {"now": now, "bound": now + wait_s + _SLACK_S, "due": now + due_s},
        )

    return [
        step("series", "receiving", "settle_at", longest.series, longest.series),
        # Its place in the queue as well: all that comes now would be claimed before it.
        step("job", "queued", "available_at", longest.job, also=", rank = rank - max(0, created_at - :now)"),
        step("job", "running", "lease_until", longest.lease, longest.lease),
        step("delivery", "queued", "available_at", longest.delivery),
        step("step_message", "queued", "available_at", longest.delivery),
        step("commitment", "pending", "judge_at", longest.commitment),
        step("commitment", "queued", "available_at", longest.commitment),
    ]
