"""The counts that the metrics show are those of the rows, whatever happened."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable

import pytest

from appliance.journal.jobs import LeaseLost
from appliance.journal.journal import Journal
from appliance.journal.records import Activation, Answered, Assessment, ClaimedDelivery, ClaimedJob, ModelVersion
from appliance.journal.retention import Limits
from tests.unit.journal.makers import NO, YES, complete, received, register, succeed

SHADOW = Assessment("brain", "1.1.0", None, shadow=True)


class RandomLife:
    """Does to a journal what the roles do, in random order, with time going on in between."""

    def __init__(self, journal: Journal, seed: int) -> None:
        self.journal = journal
        self.random = random.Random(seed)
        self.now = 100.0
        self.instances = 0
        self.jobs: list[ClaimedJob] = []
        self.deliveries: list[ClaimedDelivery] = []

    def step(self) -> None:
        """Do one thing."""
        self.now += self.random.uniform(0, 20)
        actions: list[Callable[[], object]] = [
            self.receive, self.complete, self.claim_job, self.end_job, self.end_job, self.recover,
            self.claim_deliveries, self.end_delivery, self.end_delivery, self.requeue, self.delete,
            self.change_versions,
        ]  # fmt: skip
        try:
            self.random.choice(actions)()
        except LeaseLost:
            pass  # after recover: that is what it is for

    def receive(self) -> None:
        self.instances += 1
        instance = received(
            f"1.{self.instances}", series=(series := f"2.{self.random.randrange(6)}"), study=f"3.{series}", at=self.now
        )
        register(self.journal, instance, self.random.choice([[], [YES], [NO], [YES, SHADOW]]))

    def complete(self) -> None:
        complete(self.journal, self.now)

    def claim_job(self) -> None:
        job = self.journal.jobs.claim("worker-0", self.now, 30)
        if job is not None:
            self.jobs.append(job)

    def end_job(self) -> None:
        if not self.jobs:
            return
        job = self.jobs.pop(self.random.randrange(len(self.jobs)))
        match self.random.randrange(5):
            case 0 | 1:
                succeed(self.journal, job, now=self.now, destinations=("pacs", "share"))
            case 2:
                self.journal.jobs.unsuitable(job, "worker-0", self.now, "gap", "why", {})
            case 3:
                self.journal.jobs.fail(job, "worker-0", self.now, "x", "why", retry_at=self.now, max_attempts=2)
            case 4:
                self.journal.jobs.give_back(job, "worker-0")

    def recover(self) -> None:
        self.journal.jobs.recover("worker-1", self.now, 2)
        if self.random.random() < 0.2:
            self.deliveries.clear()
            self.journal.deliveries.recover("pacs")
            self.journal.deliveries.recover("share")

    def claim_deliveries(self) -> None:
        self.deliveries += self.journal.deliveries.claim(self.random.choice(["pacs", "share"]), self.now, 3)

    def end_delivery(self) -> None:
        if not self.deliveries:
            return
        delivery = self.deliveries.pop()
        match self.random.randrange(3):
            case 0:
                self.journal.deliveries.delivered([Answered(delivery, self.now, 0)])
            case 1:
                self.journal.deliveries.postpone(delivery.delivery_id, self.now + 5, None, "later")
            case 2:
                self.journal.deliveries.fail(delivery.delivery_id, self.now, 0xC000, "never")

    def requeue(self) -> None:
        self.journal.deliveries.requeue(self.now)
        for job in self.journal.overview.jobs(5):
            self.journal.jobs.requeue(job.job_id, self.now)

    def delete(self) -> None:
        for study in self.journal.retention.studies(self.now - 100):
            self.journal.retention.delete_series(study, Limits(self.now, self.now), reason="age", now=self.now)

    def change_versions(self) -> None:
        version = ModelVersion(self.random.choice(["1.0.0", "1.1.0"]), "float32")
        match self.random.randrange(3):
            case 0:
                self.journal.activations.activate("brain", version, self.now)
            case 1:
                self.journal.activations.shadow("brain", self.random.choice([version, None]), self.now)
            case 2:
                if self.journal.activations.all().get("brain", Activation("brain")).previous:
                    self.journal.activations.roll_back("brain", self.now)


_ASTRAY = """SELECT count(*) FROM job JOIN activation USING (model) WHERE job.state = 'queued'
    AND iif(job.shadow, model_version IS NOT shadow_version, model_version <> version)"""
"""Jobs that wait for a version that does not serve, while another one does."""


_TALLY = "SELECT destination, state, rows FROM delivery_tally WHERE rows <> 0"
_DELIVERIES = "SELECT destination, state, count(*) FROM delivery GROUP BY destination, state"


def by_destination(sql: sqlite3.Connection, query: str) -> set[tuple[object, ...]]:
    """Rows of deliveries by destination and state."""
    return {tuple(row) for row in sql.execute(query)}


def counted(sql: sqlite3.Connection, machine: str) -> dict[str, int]:
    """The rows themselves, by state."""
    table = "job" if machine == "shadow" else machine
    where = {"job": "WHERE shadow = 0", "shadow": "WHERE shadow = 1"}.get(machine, "")
    rows = sql.execute(f"SELECT state, count(*) AS rows FROM {table} {where} GROUP BY state")
    return {row["state"]: row["rows"] for row in rows}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_tally_equals_the_rows(journal: Journal, sql: sqlite3.Connection, seed: int) -> None:
    # What is looked for is not lost by a crash here: without the syncs the walk can be long.
    journal._database.connection().execute("PRAGMA synchronous = OFF")
    life = RandomLife(journal, seed)
    for number in range(600):
        life.step()
        if number % 20 == 0 or number == 599:
            for machine, states in journal.overview.tally().items():
                found = {state: count for state, count in states.items() if count}
                assert found == counted(sql, machine), (machine, number)
            assert by_destination(sql, _TALLY) == by_destination(sql, _DELIVERIES), number
            assert sql.execute(_ASTRAY).fetchone()[0] == 0, number
    events = sql.execute("SELECT machine, event, count(*) FROM event GROUP BY machine, event").fetchall()
    assert len(events) >= 17, [tuple(row) for row in events]  # the walk went along nearly all of the 19 arrows


@pytest.mark.parametrize("machine", ["series", "job", "shadow", "delivery"])
def test_every_state_is_in_the_tally_from_the_start(journal: Journal, sql: sqlite3.Connection, machine: str) -> None:
    """So that a metric is 0 instead of absent before the first study."""
    states = {
        row["to_state"]
        for row in sql.execute("SELECT to_state FROM transition WHERE machine = ?", (machine.replace("shadow", "job"),))
    }
    assert journal.overview.tally()[machine] == dict.fromkeys(states, 0)
