"""*Last byte in → SR at the PACS*, stage by stage, with dcmtk as scanner and PACS, and the memory of each role.

The long series come twice: as a scanner sends them while it reconstructs, and all at once.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psutil

from appliance.journal.journal import Journal
from tests.support.daemon import Daemon
from tests.support.long_series import SYNTAXES, compressed, ct_templates, mr_templates, study_of
from tests.support.peers import DcmtkStoreScp
from tests.support.scanner import storescu, storescu_paced
from tests.support.studies import REPOSITORY, chest_study, head_study
from tests.support.volume_package import write_volume_package
from tests.support.waiting import wait_for

ROWS = ("settle", "queue", "load", "infer", "read_out", "write", "deliver")
SUMS = ("last byte → claimed", "complete → inference", "total", "total without settle", "not inference")
ROLES = ("receiver", "sender", "console", "worker-0")
CT = "CT 300"
KINDS = ("CR", "MR 192", CT, *(f"{CT} {syntax}" for syntax in SYNTAXES))
MODELS = ("cxr-lung", "mr-brain-extract")

Maker = Callable[[Path, str], list[Path]]
"""Writes one study into a folder, for a name, and returns its files."""


def measure_latency(repeat: int, wanted: Sequence[str], per_second: float, settle_s: float) -> dict[str, object]:
    """Send ``repeat`` studies of each kind, alternating, one at a time; print and return medians in ms.

    Parameters
    ----------
    wanted
        The kinds to measure, of ``KINDS``; empty for all.
    per_second
        How many images a scanner sends while it reconstructs; 0 leaves those studies out.
    settle_s
        ``assembly.settle_s`` of the appliance.
    """
    with tempfile.TemporaryDirectory() as folder, DcmtkStoreScp(Path(folder) / "pacs") as pacs:
        root = Path(folder)
        makers = _makers(root / "templates", wanted)
        packages = _packages(root / "engines")
        kinds = {
            (f"{kind}, {rate:g}/s" if rate else kind): (make, rate)
            for kind, make in makers.items()
            for rate in ((0.0, per_second) if per_second and kind != "CR" else (0.0,))
        }
        samples: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        daemon = Daemon(
            root,
            destinations=[
                {"kind": "dicom", "name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}
            ],
            settings={
                "assembly": {"settle_s": settle_s},
                "logging": {"level": "WARNING"},
                "models": {"folder": str(packages)},
            },
            weights=REPOSITORY / ".cache" / "state" / "weights",
        )
        try:
            daemon.start()
            idle_mb = memory_mb(daemon)
            journal = daemon.journal()
            for number in range(repeat + 1):
                for kind, (make, rate) in kinds.items():
                    name = f"{kind} {number}"
                    study = root / "studies" / str(number)
                    sample = one_study(daemon, journal, make(study, name), rate, _options(kind))
                    shutil.rmtree(study)
                    if number:  # the first of each kind warms the file cache
                        samples[kind].append(sample)
                    print(f"{name}: {sample['complete → inference']:.0f} ms to the first network", file=sys.stderr)
            journal.close()
            busy_mb = memory_mb(daemon)
        finally:
            daemon.stop()
    figures: dict[str, object] = {"studies": repeat}
    for kind, found in samples.items():
        figures[kind] = {row: round(statistics.median(sample[row] for sample in found), 1) for row in found[0]}
    figures["memory_mb"] = {role: {"idle": idle_mb[role], "after": busy_mb[role]} for role in ROLES}
    show(figures, list(kinds))
    return figures


def _makers(folder: Path, wanted: Sequence[str]) -> dict[str, Maker]:
    """What makes a study of each kind that is wanted and can be had here."""
    shared = REPOSITORY.parent / "shared" / "data"
    if not shared.is_dir():
        print("only a T1 MR series here: the folder of real images is absent", file=sys.stderr)
        return {"MR": head_study}

    makers: dict[str, Maker] = {}
    plain: list[Path] = []
    for kind in wanted or KINDS:
        if kind == "CR":
            makers[kind] = partial(chest_study, shared)
        elif kind == "MR 192":
            makers[kind] = partial(study_of, mr_templates(shared))
        else:
            plain = plain or ct_templates(shared, folder / CT)
            syntax = kind.removeprefix(CT).strip()
            makers[kind] = partial(study_of, compressed(plain, folder / kind, syntax) if syntax else plain)
    return makers


def _packages(folder: Path) -> Path:
    """The models that serve: two real ones, and for CT one whose network takes no time, as the real one takes minutes
    on a processor; what comes before it is the same.
    """
    folder.mkdir()
    for model in MODELS:
        (folder / model).symlink_to(REPOSITORY / "engines" / model)
    write_volume_package(folder, REPOSITORY / "engines" / "ct-head-brain" / "1.0.0")
    return folder


def _options(kind: str) -> list[str]:
    """What dcmtk's sender has to be told for studies of a kind."""
    return [option for syntax, (_, option) in SYNTAXES.items() if syntax in kind]


def one_study(
    daemon: Daemon, journal: Journal, paths: list[Path], per_second: float, options: Sequence[str] = ()
) -> dict[str, float]:
    """Send one study and wait for its SR; return the stages in ms."""
    before = journal.overview.jobs(1)
    last = before[0].job_id if before else 0
    if per_second:
        storescu_paced(daemon.dicom_port, paths, per_second)
    else:
        assert storescu(daemon.dicom_port, paths, options=options)

    def delivered() -> float | None:
        jobs = journal.overview.jobs(1)
        return (
            journal.overview.delivered(jobs[0].job_id).get(("pacs", "sr")) if jobs and jobs[0].job_id > last else None
        )

    at = wait_for(delivered, timeout_s=300, what="the SR to be delivered")
    daemon.wait_until_idle(jobs=last + 1)
    (job,) = journal.overview.jobs(1)
    assert job.finished_at is not None and job.last_received_at is not None
    stages = journal.overview.stages(job.job_id) | {"deliver": at - job.finished_at}
    total = at - job.last_received_at
    sample = {row: stages[row] * 1000 for row in ROWS}
    return sample | {
        "last byte → claimed": (stages["settle"] + stages["queue"]) * 1000,
        "complete → inference": stages["to_infer"] * 1000,
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
    print("", "kind", *ROWS, *SUMS, "", sep=" | ")
    for kind in kinds:
        print("", kind, *(f"{figures[kind][row]:.1f}" for row in (*ROWS, *SUMS)), "", sep=" | ")  # type: ignore[index]
    print("\nResident memory, MB: at start, after the studies")
    for role, memory in figures["memory_mb"].items():  # type: ignore[attr-defined]
        print(f"{role:22}{memory['idle']:16}{memory['after']:16}")
