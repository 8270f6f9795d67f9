"""Memory of every role while thousands of small studies go through, over the network and the drop folder."""

from __future__ import annotations

import statistics
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil
from pydicom import dcmread
from pydicom.uid import UID, ComputedRadiographyImageStorage

from tests.support.daemon import Daemon
from tests.support.model_packages import cone_study, write_bright_package
from tests.support.peers import DcmtkStoreScp
from tests.support.raw_peer import RELEASE_RP, RELEASE_RQ, RawPeer, p_data, store_command
from tests.support.studies import REPOSITORY
from tests.support.waiting import wait_for

_ROLES = ("receiver", "worker-0", "sender", "console")
_SAMPLES = 50
_WARM = 0.2
"""The part of the run in which caches and pools may still fill."""
_DROPPED = 10
"""One study of so many comes through the drop folder."""
_MOST_WAITING = 50
_MARKS = [f"1.2.826.0.1.3680043.8.498.{digit * 30}" for digit in "123"]
"""UIDs of study, series and instance that are replaced in a file without reading it again."""
Sample = dict[str, int]


def measure_memory(studies: int) -> dict[str, object]:
    """Send ``studies`` radiographs, each a study on an association of its own; print what each role's memory does."""
    with tempfile.TemporaryDirectory(dir=REPOSITORY / ".cache", prefix="memory-") as name, ExitStack() as stack:
        root = Path(name)
        write_bright_package(root / "engines", "1.0.0", 0.5)
        pacs = stack.enter_context(DcmtkStoreScp(root / "pacs", "--ignore"))
        destination = {"kind": "dicom", "name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}
        daemon = Daemon(
            root,
            destinations=[destination | {"results": ["sr"]}],
            settings={"logging": {"level": "WARNING"}, "models": {"folder": str(root / "engines")}},
        )
        stack.callback(daemon.stop)
        daemon.start()
        samples = list(_samples(daemon, _template(root), studies))
    figures = {role: _figures([sample[role] for sample in samples], studies) for role in _ROLES}
    print(f"\n{studies} studies{'MB warm':>24}{'MB at the end':>16}{'kB per 1000 studies':>22}")
    for role, row in figures.items():
        print(f"{role:16}{row['warm_mb']:24.1f}{row['end_mb']:16.1f}{row['kb_per_1000']:22.0f}")
    return {"studies": studies, "roles": figures}


def _samples(daemon: Daemon, template: bytes, studies: int) -> Iterator[Sample]:
    processes = {role: psutil.Process(pid) for role in _ROLES if (pid := daemon.pid(role)) is not None}
    (meta_bytes,) = struct.unpack_from("<I", template, 140)  # of the group length (0002,0000), PS3.10 section 7.1
    data_set = template[144 + meta_bytes :]
    journal = daemon.journal()
    try:
        for number in range(studies):
            if number % _DROPPED == 0:
                part = daemon.layout.dropfolder / f"{number}.part"
                part.write_bytes(_numbered(template, number))
                part.rename(part.with_suffix(".dcm"))
            else:
                _send(daemon.dicom_port, _numbered(data_set, number), _uids(number)[2])
            if number % 10 == 9:
                wait_for(
                    lambda received=number: received - _done(journal.overview.tally()) < _MOST_WAITING,
                    120,
                    what="the worker",
                )
            if number % max(1, studies // _SAMPLES) == 0:
                daemon.metrics()
                sample = {role: process.memory_info().rss for role, process in processes.items()}
                print(number, {role: rss >> 20 for role, rss in sample.items()}, file=sys.stderr, flush=True)
                yield sample
        daemon.wait_until_idle(jobs=studies, timeout_s=300)
        yield {role: process.memory_info().rss for role, process in processes.items()}
    finally:
        journal.close()


def _done(tally: Mapping[str, Mapping[str, int]]) -> int:
    return tally["delivery"]["delivered"]


def _send(port: int, data_set: bytes, instance: str) -> None:
    sop_class = str(ComputedRadiographyImageStorage)
    with RawPeer(port) as peer:
        peer.associate(sop_class=sop_class)
        peer.send(p_data(store_command(sop_class, instance), command=True, last=True))
        peer.send(p_data(data_set, command=False, last=True))
        assert peer.read_status() == 0
        peer.send(RELEASE_RQ)
        assert peer.read()[0] == RELEASE_RP


def _template(root: Path) -> bytes:
    (path,) = cone_study(root / "image", "image")
    dataset = dcmread(path)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = map(UID, _MARKS)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def _uids(number: int) -> list[str]:
    return [f"{mark[:-12]}{number:012}" for mark in _MARKS]


def _numbered(content: bytes, number: int) -> bytes:
    for mark, uid in zip(_MARKS, _uids(number), strict=True):
        content = content.replace(mark.encode(), uid.encode())
    return content


def _figures(rss: list[int], studies: int) -> dict[str, float]:
    """Memory after the warm-up and at the end, and the slope between them (Theil–Sen: single peaks do not count)."""
    steady = rss[int(len(rss) * _WARM) :]
    step = studies / _SAMPLES
    slopes = [
        (later - earlier) / ((j - i) * step)
        for i, earlier in enumerate(steady)
        for j, later in enumerate(steady[i + 1 :], start=i + 1)
    ]
    return {
        "warm_mb": round(steady[0] / 1e6, 1),
        "end_mb": round(steady[-1] / 1e6, 1),
        "kb_per_1000": round(statistics.median(slopes), 1),
    }
