"""The auditor: compares what the senders were promised with what journal, spool and PACS hold.

``python -m tests.chaos.audit FOLDER`` prints a table for the folder of a campaign and ends with 1 unless nothing was
lost, doubled or stuck. It shares no code with what it audits but the names of tables and folders.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.campaign import FACTS, LEDGER, PACS_FOLDER, STATE
from tests.chaos.images import data_set_of, sop_instance_uid_of
from tests.chaos.ledger import Promise, read_ledger

_SHOWN = 5


@dataclass(slots=True)
class Finding:
    """One line of the table: how much there should be, how much there is, and what is wrong with the rest."""

    what: str
    expected: int
    held: int
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.stuck)


class Audit:
    """Everything that can be found out about the folder of a campaign that has ended."""

    def __init__(self, root: Path) -> None:
        facts: dict[str, Any] = json.loads((root / FACTS).read_text())
        self._models: dict[str, str] = facts["models"]
        self._results: list[str] = facts["results"]
        self._destination: str = facts["destination"]
        self._spool = root / STATE / "spool"
        self._dropfolder = root / STATE / "dropfolder"
        self._pacs = root / PACS_FOLDER
        self._promises: dict[str, Promise] = {}
        self._repeats = 0
        for promise in read_ledger(root / LEDGER):
            self._repeats += promise.sop_instance_uid in self._promises
            self._promises[promise.sop_instance_uid] = promise
        self._journal = root / STATE / "journal" / "journal.sqlite3"

    def findings(self) -> list[Finding]:
        """Look at everything."""
        with closing(sqlite3.connect(self._journal)) as journal:
            journal.row_factory = sqlite3.Row
            return [
                self._damage(journal),
                self._registered(journal),
                self._kept(journal),
                self._judged(journal),
                *self._delivered(journal),
                self._left(journal),
            ]

    def _damage(self, journal: sqlite3.Connection) -> Finding:
        problems = [str(row[0]) for row in journal.execute("PRAGMA integrity_check") if row[0] != "ok"]
        problems += [f"a row of {row[0]} without its {row[2]}" for row in journal.execute("PRAGMA foreign_key_check")]
        return Finding("journal whole", 1, int(not problems), lost=problems)

    def _registered(self, journal: sqlite3.Connection) -> Finding:
        """Each promised image has its one row, with its own bytes."""
        rows = {
            row["sop_instance_uid"]: row["sha256"]
            for row in journal.execute("SELECT sop_instance_uid, sha256 FROM instance")
        }
        lost = [uid for uid in self._promises if uid not in rows]
        other = [uid for uid, promise in self._promises.items() if rows.get(uid, promise.sha256) != promise.sha256]
        conflicts = [
            f"{row[0]} has other bytes as well"
            for row in journal.execute("SELECT sop_instance_uid FROM conflict JOIN instance USING (instance_id)")
        ]
        conflicts += [f"refused: {row[0]}" for row in journal.execute("SELECT message FROM rejection")]
        found = len(self._promises) - len(lost) - len(other)
        return Finding("promised images in the journal", len(self._promises), found, lost + other, conflicts)

    def _kept(self, journal: sqlite3.Connection) -> Finding:
        """Each promised image lies in the spool, the same to the byte, once."""
        finding = Finding("promised images in the spool, to the byte", len(self._promises), 0)
        named = set()
        for row in journal.execute("SELECT sop_instance_uid, path, bytes FROM instance"):
            path = self._spool / row["path"]
            named.add(path)
            promise = self._promises.get(row["sop_instance_uid"])
            if promise is None:
                continue
            content = path.read_bytes() if path.exists() else b""
            if len(content) == row["bytes"] and _sha256_of_data_set(content) == promise.sha256:
                finding.held += 1
            else:
                finding.lost.append(f"{row['sop_instance_uid']}: {len(content)} bytes of {row['bytes']}")
        files = [path for path in (self._spool / "instances").rglob("*") if path.is_file()]
        finding.doubled = [f"{path.name} is in no row" for path in files if path not in named]
        return finding

    def _judged(self, journal: sqlite3.Connection) -> Finding:
        """Each image that a model is for has one job, which succeeded with one result of each kind."""
        jobs = defaultdict(list)
        for row in journal.execute(
            "SELECT i.sop_instance_uid, j.job_id, j.model, j.state, j.reason FROM job j JOIN instance i"
            " ON i.instance_id = j.instance_id OR (j.instance_id IS NULL AND i.series_id = j.series_id)"
        ):
            jobs[row["sop_instance_uid"]].append(row)
        results = defaultdict(list)
        for job_id, kind in journal.execute("SELECT job_id, kind FROM result"):
            results[job_id].append(kind)
        wanted = {uid: promise for uid, promise in self._promises.items() if promise.kind in self._models}
        finding = Finding("images judged, once", len(wanted), 0)
        for uid, promise in wanted.items():
            mine = [row for row in jobs[uid] if row["model"] == self._models[promise.kind]]
            if not mine:
                finding.lost.append(f"{uid} has no job")
            elif len(mine) > 1:
                finding.doubled.append(f"{uid} has {len(mine)} jobs")
            elif mine[0]["state"] != "succeeded":
                finding.stuck.append(f"job {mine[0]['job_id']} is {mine[0]['state']} ({mine[0]['reason']})")
            elif (kinds := Counter(results[mine[0]["job_id"]])) != Counter(self._results):
                problem = finding.doubled if max(kinds.values(), default=0) > 1 else finding.lost
                problem.append(f"job {mine[0]['job_id']} has {dict(kinds)}")
            else:
                finding.held += 1
        others = [uid for uid in jobs if uid not in wanted]
        finding.doubled += [f"{uid} was judged although nobody asked for it" for uid in others]
        return finding

    def _delivered(self, journal: sqlite3.Connection) -> Iterable[Finding]:
        """Each result, and each image, is at the PACS, the same to the byte, and nothing else is."""
        copies = defaultdict(list)
        for path in sorted(self._pacs.iterdir()):
            content = path.read_bytes()
            copies[sop_instance_uid_of(content)].append(_sha256_of_data_set(content))
        results = {
            row["sop_instance_uid"]: self._sha256_of_result(row["path"], row["sha256"])
            for row in journal.execute("SELECT sop_instance_uid, path, sha256 FROM result")
        }
        images = {uid: promise.sha256 for uid, promise in self._promises.items()}
        for what, table, wanted in (("results", "result", results), ("images", "instance", images)):
            yield self._outbox(journal, what, table, wanted)
            yield _held(what, wanted, copies)
        strangers = [uid for uid in copies if uid not in results and uid not in images]
        yield Finding("nothing else at the PACS", 0, 0, doubled=[f"{uid} is in no row" for uid in strangers])
        repeats = sum(len(found) - 1 for found in copies.values() if found)
        yield Finding("(the same object sent to the PACS again)", repeats, repeats)

    def _sha256_of_result(self, relative: str, sha256: str) -> str:
        """Of its data set; of nothing, if its file is not the one that was committed."""
        path = self._spool / relative
        content = path.read_bytes() if path.exists() else b""
        return _sha256_of_data_set(content) if hashlib.sha256(content).hexdigest() == sha256 else ""

    def _outbox(self, journal: sqlite3.Connection, what: str, table: str, wanted: Mapping[str, str]) -> Finding:
        """Each of them has one delivery, which is done."""
        found = Finding(f"deliveries of {what} done", len(wanted), 0)
        rows = {
            row["sop_instance_uid"]: row
            for row in journal.execute(
                f"SELECT o.sop_instance_uid, d.state, d.message, count(d.delivery_id) AS deliveries FROM {table} o"
                f" LEFT JOIN delivery d ON d.{table}_id = o.{table}_id AND d.destination = ? GROUP BY o.{table}_id",
                (self._destination,),
            )
        }
        for uid in wanted:
            row = rows.get(uid)
            if row is None or not row["deliveries"]:
                found.lost.append(f"{uid} has no delivery")
            elif row["deliveries"] > 1:
                found.doubled.append(f"{uid} has {row['deliveries']} deliveries")
            elif row["state"] != "delivered":
                found.stuck.append(f"{uid} is {row['state']}: {row['message']}")
            else:
                found.held += 1
        return found

    def _left(self, journal: sqlite3.Connection) -> Finding:
        """Nothing waits any more, and no litter is left."""
        states = {
            "series": ("receiving",),
            "job": ("queued", "running", "failed", "unsuitable"),
            "delivery": ("queued", "sending", "failed"),
        }
        stuck = [
            f"{row['n']} {table} rows are {row['state']}"
            for table, wrong in states.items()
            for row in journal.execute(f"SELECT state, count(*) AS n FROM {table} GROUP BY state")
            if row["state"] in wrong
        ]
        for folder in (self._spool / "incoming", self._dropfolder):
            files = [path for path in folder.rglob("*") if path.is_file()]
            stuck += [f"{len(files)} files in {folder.name}, such as {files[0].name}"] if files else []
        for row in journal.execute(
            "SELECT machine, state, rows FROM tally WHERE machine IN ('series', 'job', 'delivery')"
        ):
            counted = journal.execute(f"SELECT count(*) FROM {row['machine']} WHERE state = ?", (row["state"],))
            if (found := counted.fetchone()[0]) != row["rows"]:
                stuck.append(f"the tally says {row['rows']} {row['machine']} {row['state']}, there are {found}")
        return Finding("nothing left over", 0, 0, stuck=stuck)


def _held(what: str, wanted: Mapping[str, str], copies: Mapping[str, list[str]]) -> Finding:
    """Each of them is at the PACS with its own bytes, and never came with others."""
    found = Finding(f"{what} at the PACS, to the byte", len(wanted), 0)
    for uid, sha256 in wanted.items():
        here = copies.get(uid, [])
        if not sha256:
            found.lost.append(f"{uid}: its file in the spool is not what was committed")
        elif sha256 not in here:
            found.lost.append(f"{uid} is not at the PACS")
        elif len(set(here)) > 1:
            found.doubled.append(f"{uid} came with different content")
        else:
            found.held += 1
    return found


def _sha256_of_data_set(part10: bytes) -> str:
    try:
        return hashlib.sha256(data_set_of(part10)).hexdigest()
    except ValueError:
        return ""


def table(findings: Iterable[Finding]) -> str:
    """The findings as people read them; of each kind of problem the first few."""
    findings = list(findings)
    lines = [f"{'':44}{'expected':>9}{'held':>9}{'lost':>7}{'doubled':>9}{'stuck':>7}"]
    lines += [
        f"{found.what:44}{found.expected:9}{found.held:9}{len(found.lost):7}{len(found.doubled):9}{len(found.stuck):7}"
        for found in findings
    ]
    for found in findings:
        for kind, problems in (("lost", found.lost), ("doubled", found.doubled), ("stuck", found.stuck)):
            lines += [f"{kind}: {problem}" for problem in problems[:_SHOWN]]
            if len(problems) > _SHOWN:
                lines.append(f"{kind}: … and {len(problems) - _SHOWN} more of “{found.what}”")
    return "\n".join(lines)


def main() -> int:
    """Audit one folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.audit", description=__doc__)
    parser.add_argument("folder", type=Path, help="of a campaign that has ended")
    findings = Audit(parser.parse_args().folder).findings()
    print(table(findings))
    return int(not all(found.is_clean for found in findings))


if __name__ == "__main__":
    sys.exit(main())
