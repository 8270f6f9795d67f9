"""A campaign: load, faults, then peace; all that is to be audited lies in one folder afterwards."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos.images import Images
from tests.chaos.ledger import Ledger
from tests.chaos.machine import MODELS, PACS, RESULTS, Machine
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import Notes, streams
from tests.chaos.senders import DropFolderWay, RawWay, Scanner, StorescuWay, Way
from tests.support.peers import DcmtkStoreScp
from tests.support.waiting import wait_for

LEDGER, PACS_FOLDER, STATE, FACTS = "ledger.jsonl", "pacs", "state", "campaign.json"
"""What a campaign leaves in its folder."""

_MOST_WAITING = 40
"""Jobs that may wait before the scanners send only what no model judges."""
_DRAIN_S = 240.0
"""How long scanners may take, once nothing fails any more, until all is taken that they hold."""
_STANDSTILL_S = 60.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What a campaign did."""

    seed: int
    seconds: float
    drained_in_s: float
    kills: Mapping[str, int]
    starts: int
    faults: Mapping[str, int]
    disk_faults_met: int
    offered: int
    promised: int
    sent_again: int
    connections_to_pacs: int


def run_campaign(root: Path, seconds: float, seed: int, *, kill_every_s: float = 2.5, load: float = 1.0) -> Figures:
    """Run a campaign in an empty folder; what it has to be judged by is there when this returns.

    Parameters
    ----------
    seconds
        How long faults come; afterwards the appliance gets as long as it needs, within reason, to do what is left.
    kill_every_s
        Mean time between two kills.
    load
        How much the scanners send; 1 is about a hundred images in a second, as long as they are taken.
    """
    with ExitStack() as stack:
        # Without it the PACS keeps half of each answer until the other half is acknowledged, which takes 40 ms.
        os.environ["TCP_NODELAY"] = "1"
        # Every copy that ever comes is kept, and an association that is stuck does not stop the others.
        pacs = stack.enter_context(DcmtkStoreScp(root / PACS_FOLDER, "+uf", "--fork", "-ta", "10", "-td", "10"))
        to_pacs = Proxy(pacs.port, f"{seed} to PACS")
        stack.callback(to_pacs.stop)
        machine = Machine(root, to_pacs.port)
        facts = {"models": MODELS, "results": RESULTS, "destination": PACS}
        (root / FACTS).write_text(json.dumps(facts))
        machine.start()
        stack.callback(machine.daemon.stop)
        network = Proxy(machine.daemon.dicom_port, f"{seed} network")
        stack.callback(network.stop)
        ledger = Ledger(root / LEDGER)
        stack.callback(ledger.close)
        scanners = _scanners(root, machine, network.port, ledger, seed, load)
        notes = Notes()
        failing = streams(machine, to_pacs, network, seed, kill_every_s=kill_every_s, note=notes)
        began = time.monotonic()
        for scanner in scanners:
            scanner.start()
        for stream in failing:
            stream.start()
        _wait(seconds)
        try:
            for stream in failing:
                stream.stop()
        finally:
            machine.faults.lift()
            (root / "faults.log").write_text("\n".join(notes.lines) + "\n")
        peace = time.monotonic()
        _drain(machine, scanners)
        figures = Figures(
            seed=seed,
            seconds=round(peace - began, 1),
            drained_in_s=round(time.monotonic() - peace, 1),
            kills=dict(machine.kills),
            starts=machine.starts,
            faults=dict(sorted(notes.counts.items())),
            disk_faults_met=machine.faults.met,
            offered=sum(scanner.offered for scanner in scanners),
            promised=ledger.promises,
            sent_again=sum(scanner.repeated for scanner in scanners),
            connections_to_pacs=to_pacs.connections,
        )
        machine.stop()
        (root / "appliance.log").write_text("\n".join(machine.log()) + "\n")
    (root / FACTS).write_text(json.dumps(facts | {"figures": asdict(figures)}, indent=2))
    return figures


def _scanners(root: Path, machine: Machine, port: int, ledger: Ledger, seed: int, load: float) -> list[Scanner]:
    images = Images()
    kinds = _Kinds(machine)
    workshop = root / "workshop"
    workshop.mkdir()
    ways: list[tuple[Way, float, int]] = [
        (RawWay(port, f"{seed} release"), 40.0, 20),
        (RawWay(port, f"{seed} other release"), 40.0, 20),
        (StorescuWay(port, workshop / "storescu"), 10.0, 10),
        (DropFolderWay(machine.daemon.layout.dropfolder, workshop / "drop"), 3.0, 5),
    ]
    return [
        Scanner(way, images, ledger, kinds, seed=f"{seed} scanner {index}", rate=rate * load, batch=batch)
        for index, (way, rate, batch) in enumerate(ways)
    ]


class _Kinds:
    """Which kinds of image may be sent: reception is not to be held up by how fast this machine can infer."""

    def __init__(self, machine: Machine) -> None:
        self._journal = machine.daemon.layout.journal
        self._answer, self._until = "CT CR DX", 0.0

    def __call__(self) -> str:
        if time.monotonic() > self._until:
            try:
                waiting = waiting_rows(self._journal, "job", "queued", "running")
                self._answer = "CT" if waiting > _MOST_WAITING else "CT CR DX"
            except sqlite3.Error:
                pass  # it is locked, or not there yet: as before
            self._until = time.monotonic() + 0.5
        return self._answer


def waiting_rows(journal: Path, table: str, *states: str) -> int:
    """How many rows of a table are in these states, by the journal's own tally."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        marks = ",".join("?" * len(states))
        query = f"SELECT total(rows) FROM tally WHERE machine = ? AND state IN ({marks})"
        return int(connection.execute(query, (table, *states)).fetchone()[0])


def _wait(seconds: float) -> None:
    """Let it happen."""
    time.sleep(seconds)


def _drain(machine: Machine, scanners: list[Scanner]) -> None:
    """Give the appliance and the scanners peace until nothing is left to do, or until it does not get less."""
    for scanner in scanners:
        scanner.end()
    machine.wait_until_ready()
    deadline = time.monotonic() + _DRAIN_S
    for scanner in scanners:
        scanner.join(max(0.0, deadline - time.monotonic()))
    journal, dropfolder = machine.daemon.layout.journal, machine.daemon.layout.dropfolder

    def left() -> int:
        busy = waiting_rows(journal, "series", "receiving") + waiting_rows(journal, "job", "queued", "running")
        return busy + waiting_rows(journal, "delivery", "queued", "sending") + len(list(dropfolder.iterdir()))

    # What does not get less any more is stuck: the auditor says what it is.
    found = left()
    while found:
        before = found
        try:
            wait_for(lambda: left() < before, timeout_s=_STANDSTILL_S)  # noqa: B023 - called before it changes
        except AssertionError:
            return
        found = left()
