"""Several processes on one journal, and processes that are killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

from appliance.journal.journal import Journal
from tests.unit.journal.makers import SCRIPTS, claim, queue_job

ROOT = Path(__file__).parents[3]


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run Python code in a process of its own, with unbuffered output."""
    return subprocess.Popen(
        [sys.executable, "-u", "-W", "error", "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


CLAIM_ALL = """
import sys
from pathlib import Path
from appliance.journal.journal import Journal
journal = Journal(Path(sys.argv[1]))
print("ready")
sys.stdin.readline()
while job := journal.jobs.claim(sys.argv[2], 200.0, 60.0):
    print(job.job_id)
"""


def test_four_processes_claim_each_job_exactly_once(journal: Journal, path: Path, sql: sqlite3.Connection) -> None:
    queue_job(journal, "1")
    columns = "instance_id, revision, model, model_version, rank, available_at, first_received_at, last_received_at"
    sql.execute("BEGIN")
    for number in range(199):
        sql.execute(
            f"INSERT INTO job (series_id, {columns}, created_at) "
            f"SELECT series_id, {columns.replace('revision', '?')}, created_at FROM job WHERE job_id = 1",
            (number + 2,),
        )
    sql.execute("COMMIT")
    workers = [start(CLAIM_ALL, path, f"worker-{number}") for number in range(4)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    outputs = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        outputs.append(worker.communicate(timeout=120)[0].split())
        assert worker.returncode == 0
    claimed = Counter(job for output in outputs for job in output)
    assert set(claimed.values()) == {1}
    assert {int(job) for job in claimed} == set(range(1, 201))
    assert {row["attempts"] for row in sql.execute("SELECT attempts FROM job")} == {1}
    assert journal.overview.tally()["job"] | {"running": 200, "queued": 0} == journal.overview.tally()["job"]


OPEN = """
import sys
from pathlib import Path
from appliance.journal.journal import Journal
print("ready")
sys.stdin.readline()
Journal(Path(sys.argv[1])).close()
"""


def test_processes_that_start_at_once_make_one_journal(path: Path) -> None:
    """All roles start together on an empty state folder."""
    roles = [start(OPEN, path) for _ in range(6)]
    for role in roles:
        assert role.stdout is not None
        assert role.stdout.readline() == "ready\n"
    for role in roles:
        assert role.stdin is not None
        role.stdin.write("go\n")
        role.stdin.flush()
    for role in roles:
        role.communicate(timeout=120)
    assert [role.returncode for role in roles] == [0] * 6
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(SCRIPTS)
    connection.close()


REGISTER_FOR_EVER = """
import sys
from itertools import count
from pathlib import Path
from appliance.journal.journal import Journal
from tests.unit.journal.makers import YES, claim, received, register, succeed
journal = Journal(Path(sys.argv[1]))
for number in count():
    uid = f"{sys.argv[2]}.{number}"
    register(journal, received(uid, at=100.0), [YES])
    print("instance", uid)
    job = claim(journal)
    succeed(journal, job)
    print("job", job.job_id)
"""


def test_what_was_committed_before_kill_9_is_there(path: Path) -> None:
    """A line is printed after the commit: what was printed was promised."""
    for life in range(4):
        process = start(REGISTER_FOR_EVER, path, f"1.{life}")
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(20 + 7 * life)]
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        assert process.stdin is not None
        process.stdin.close()
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        instances = {row[0] for row in connection.execute("SELECT sop_instance_uid FROM instance")}
        succeeded = {row[0] for row in connection.execute("SELECT job_id FROM job WHERE state = 'succeeded'")}
        results = Counter(
            row[0] for row in connection.execute("SELECT job_id FROM result JOIN delivery USING (result_id)")
        )
        connection.close()
        assert {line.split()[1] for line in lines if line.startswith("instance") and line.endswith("\n")} <= instances
        assert {int(line.split()[1]) for line in lines if line.startswith("job") and line.endswith("\n")} <= succeeded
        # In one transaction: a job that succeeded has both its results with their deliveries, any other has none.
        assert results == Counter(dict.fromkeys(succeeded, 2))


def test_the_worker_that_was_killed_gets_its_job_back(path: Path) -> None:
    journal = Journal(path)
    queue_job(journal, "1")
    code = CLAIM_ALL + "print('claimed'); sys.stdin.readline()"
    process = start(code, path, "worker-0")
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert [process.stdout.readline() for _ in range(3)] == ["ready\n", "1\n", "claimed\n"]
    process.kill()
    process.communicate()
    assert journal.jobs.recover("worker-0", 201, 3) == 1
    assert claim(journal, now=201).attempt == 2
    journal.close()
