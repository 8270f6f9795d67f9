"""*Last byte in → SR at the PACS*, stage by stage, with dcmtk as scanner and PACS, and the memory of each role."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil

from appliance.journal.journal import Journal
from tests.support.daemon import Daemon
from tests.support.peers import DcmtkStoreScp
from tests.support.scanner import storescu
from tests.support.studies import REPOSITORY, chest_study, head_study
from tests.support.waiting import wait_for

ROWS = ("settle", "queue", "load", "infer", "read_out", "write", "deliver")
ROLES = ("receiver", "sender", "console", "worker-0")


def measure_latency(repeat: int) -> dict[str, object]:
    """Send ``repeat`` studies of each kind, alternating, one at a time; print and return medians in ms."""
    shared = REPOSITORY.parent / "shared" / "data"
    makers: dict[str, Callable[[Path, str], list[Path]]] = {"T1 MR series": head_study}
    if shared.is_dir():
        makers["CR image"] = lambda folder, name: chest_study(shared, folder, name)
    else:
        print("no CR image here: the folder of real images is absent", file=sys.stderr)
    samples: dict[str, list[dict[str, float]]] = {kind: [] for kind in makers}
    with tempfile.TemporaryDirectory() as folder, DcmtkStoreScp(Path(folder) / "pacs") as pacs:
        root = Path(folder)
        daemon = Daemon(
            root,
            destinations=[
                {"kind": "dicom", "name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}
            ],
            settings={"assembly": {"settle_s": 1.0}, "logging": {"level": "WARNING"}},
            weights=REPOSITORY / ".cache" / "state" / "weights",
        )
        daemon.start()
        try:
            idle_mb = memory_mb(daemon)
            journal = daemon.journal()
            for number in range(repeat + 1):
                for kind, make in makers.items():
                    name = f"{kind} {number}"
                    sample = one_study(daemon, journal, make(root / name, name))
                    if number:  # the first of each kind warms the file cache
                        samples[kind].append(sample)
                    print(".", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            journal.close()
            busy_mb = memory_mb(daemon)
        finally:
            daemon.stop()
    figures: dict[str, object] = {"studies": repeat}
    for kind, found in samples.items():
        figures[kind] = {row: round(statistics.median(sample[row] for sample in found), 1) for row in found[0]}
    figures["memory_mb"] = {role: {"idle": idle_mb[role], "after": busy_mb[role]} for role in ROLES}
    show(figures, list(makers))
    return figures


def one_study(daemon: Daemon, journal: Journal, paths: list[Path]) -> dict[str, float]:
    """Send one study and wait for its SR; return the stages in ms."""
    before = journal.overview.jobs(1)
    last = before[0].job_id if before else 0
    assert storescu(daemon.dicom_port, paths)

    def delivered() -> float | None:
        jobs = journal.overview.jobs(1)
        return (
            journal.overview.delivered(jobs[0].job_id).get(("pacs", "sr")) if jobs and jobs[0].job_id > last else None
        )

    at = wait_for(delivered, timeout_s=180, what="the SR to be delivered")
    daemon.wait_until_idle(jobs=last + 1)
    (job,) = journal.overview.jobs(1)
    assert job.finished_at is not None
    stages = journal.overview.stages(job.job_id) | {"deliver": at - job.finished_at}
    total = at - job.last_received_at
    sample = {row: stages[row] * 1000 for row in ROWS}
    return sample | {
        "total": total * 1000,
        "total without settle": (total - stages["settle"]) * 1000,
        "not inference": (total - stages["settle"] - stages["infer"]) * 1000,
    }


def memory_mb(daemon: Daemon) -> dict[str, int]:
    """Resident memory of each role."""
    return {role: psutil.Process(daemon.pid(role)).memory_info().rss >> 20 for role in ROLES}


def show(figures: dict[str, object], kinds: list[str]) -> None:
    """Print the table."""
    print(f"Last byte in → SR at the PACS (dcmtk), medians of {figures['studies']} studies, ms")
    print(f"{'':22}" + "".join(f"{kind:>16}" for kind in kinds))
    for row in (*ROWS, "total", "total without settle", "not inference"):
        print(f"{row:22}" + "".join(f"{figures[kind][row]:16.1f}" for kind in kinds))  # type: ignore[index]
    print("\nResident memory, MB: at start, after the studies")
    for role, memory in figures["memory_mb"].items():  # type: ignore[attr-defined]
        print(f"{role:22}{memory['idle']:16}{memory['after']:16}")
