"""From the last image of a series to the series complete, by what tells the receiver so."""

from __future__ import annotations

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import yaml
from pydicom.dataset import Dataset

from appliance.config.layout import StateLayout
from tests.support.dicom_factory import Subject, ct_series, ct_voxels, write_datasets
from tests.support.peers import Orthanc
from tests.support.ports import free_port
from tests.support.procedure_steps import begun, change, create, ended, modality
from tests.support.scanner import storescu
from tests.support.studies import REPOSITORY
from tests.support.waiting import wait_for

_SLICES = 10
_STABLE_AGE_S = 30.0

WAYS = {
    "nothing said, an association each": "stable age",
    "in the PACS, an association each": "pacs count",
    "nothing said, one association": "association released",
    "announced, an association each": "images in acquisition",
    "announced, one association": "images in acquisition",
    "listed by MPPS, an association each": "mpps completed",
    "listed by MPPS, one association": "mpps completed",
}
"""What is known of a series and how it is sent → the sign that completes it."""


def measure_signs(rounds: int) -> dict[str, object]:
    """Send ``rounds`` series in each way, with the settings as they come; print the medians."""
    figures = {}
    with tempfile.TemporaryDirectory(dir=REPOSITORY / ".cache", prefix="signs-") as name, ExitStack() as stack:
        root = Path(name)
        orthanc = stack.enter_context(Orthanc(root / "orthanc", settings={"DicomAlwaysAllowFind": True}))
        port = free_port()
        layout = _start(root, port, orthanc.port, stack)
        journal = stack.enter_context(_Journal(layout.journal))
        for way, sign in WAYS.items():
            for number in range(rounds):
                _send(root / way / str(number), way, port, orthanc)
            print(".", end="", file=sys.stderr, flush=True)
            waits = wait_for(lambda: journal.waits(rounds), 2 * _STABLE_AGE_S, what="the series to be complete")
            assert {found for found, _ in waits} == {sign}, (way, waits)
            seconds = [wait for _, wait in waits]
            figures[way] = {
                "sign": sign,
                "p50_ms": round(statistics.median(seconds) * 1000, 1),
                "most_ms": round(max(seconds) * 1000, 1),
            }
        print(file=sys.stderr)
    print(f"Last image → series complete, medians of {rounds} series of {_SLICES} CT slices, dcmtk as the scanner\n")
    print(f"{'':38}{'sign':24}{'p50 ms':>10}{'most':>10}")
    for way, row in figures.items():
        print(f"{way:38}{row['sign']:24}{row['p50_ms']:10.1f}{row['most_ms']:10.1f}")
    return {"rounds": rounds, "slices": _SLICES, "signs": figures}


class _Journal:
    """What the receiver writes, read beside it."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)
        self._seen = 0

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def waits(self, count: int) -> list[tuple[str, float]] | None:
        """Sign and seconds of each of the next ``count`` series, once all are complete."""
        rows = self._connection.execute(
            "SELECT sign, completed_at - last_received_at FROM series "
            "WHERE state = 'complete' AND revision = 1 AND image_count = ? AND series_id > ? ORDER BY series_id",
            (_SLICES, self._seen),
        ).fetchall()
        if len(rows) < count:
            return None
        self._seen += count
        return rows


def _start(root: Path, port: int, pacs_port: int, stack: ExitStack) -> StateLayout:
    """The receiver, and the sender, which asks the PACS, as in a site's installation."""
    layout = StateLayout(root / "state")
    config = root / "appliance.yaml"
    settings = {
        "dicom": {"host": "127.0.0.1", "port": port},
        "dropfolder": {"enabled": False},
        "assembly": {
            "stable_age_s": _STABLE_AGE_S,
            "pacs": {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": pacs_port},
        },
        "storage": {"min_free_bytes": 0},
        "logging": {"level": "ERROR"},
    }
    config.write_text(yaml.safe_dump(settings))
    for role in ("receiver", "sender"):
        command = [sys.executable, "-m", "appliance", "role", role, "-c", str(config)]
        running = subprocess.Popen([*command, "--state-dir", str(layout.root)])
        stack.callback(running.wait, 10)
        stack.callback(running.terminate)
    for role in ("receiver", "sender"):
        wait_for((layout.run / f"{role}.ready").exists, 60, what=f"the {role} to be ready")
    return layout


def _send(folder: Path, way: str, port: int, orthanc: Orthanc) -> None:
    images = ct_series(ct_voxels(_SLICES, 64, 64), subject=Subject(seed=str(folder)))
    if way.startswith("announced"):
        for image in images:
            image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            image.ImagesInAcquisition = len(images)
    paths = write_datasets(images, folder)
    if way.startswith("in the PACS"):
        orthanc.upload(paths)
    if way.startswith("listed"):
        _tell(port, images)
    for batch in [[path] for path in paths] if way.endswith("each") else [paths]:
        assert storescu(port, batch)


def _tell(port: int, images: list[Dataset]) -> None:
    step = f"{images[0].StudyInstanceUID}.{os.getpid()}"[:64]
    with modality(port) as association:
        assert create(association, step, begun(images[0].StudyInstanceUID)).Status == 0
        assert change(association, step, ended(images)).Status == 0
