"""A compressed series is prepared while it arrives, whatever happens to the processes that decode it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psutil
from pydicom.uid import JPEGLSLossless

from tests.conftest import REPOSITORY
from tests.support.daemon import Daemon
from tests.support.dicom_factory import Stack, ct_series, ct_voxels, write_datasets
from tests.support.scanner import storescu_paced
from tests.support.volume_package import write_volume_package


def decoders_of(daemon: Daemon) -> list[psutil.Process]:
    worker = daemon.pid("worker-0")
    assert worker is not None
    return [child for child in psutil.Process(worker).children() if _decodes(child)]


def _decodes(process: psutil.Process) -> bool:
    try:
        return "appliance.imaging.decoder_process" in process.cmdline()
    except psutil.Error:  # it ends at this moment
        return False


def test_decoders_that_are_killed_cost_no_job(tmp_path: Path) -> None:
    write_volume_package(tmp_path / "engines", REPOSITORY / "engines" / "ct-head-brain" / "1.0.0")
    # Long enough for a busy machine to read the last images before the series is complete.
    settings = {"models": {"folder": str(tmp_path / "engines")}, "assembly": {"settle_s": 3.0, "stable_age_s": 30.0}}
    daemon = Daemon(tmp_path, settings=settings)
    datasets = ct_series(ct_voxels(40, 96, 96), Stack(spacing_mm=(3.0, 1.25, 1.25)))
    for dataset in datasets:
        dataset.BodyPartExamined = "HEAD"
        dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    paths = write_datasets(datasets, tmp_path / "study")
    try:
        daemon.start()
        killed, over = set[int](), threading.Event()

        def kill() -> None:
            while not over.wait(0.3):
                for decoder in decoders_of(daemon):
                    try:
                        os.kill(decoder.pid, signal.SIGKILL)
                        killed.add(decoder.pid)
                    except ProcessLookupError:
                        pass

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            storescu_paced(daemon.dicom_port, paths, 20)
        finally:
            over.set()
            killer.join()
        assert killed
        tally = daemon.wait_until_idle(jobs=1)
        assert tally["job"]["succeeded"] == 1, [line for line in daemon.lines if "job 1" in line]
        metrics = daemon.metrics()
        # Where the killer was quicker than a new decoder twice, the job was tried again: it counts each time.
        assert 'appliance_prepared_jobs_total{model="dense"' in metrics
        decoders = decoders_of(daemon)
        daemon.kill("worker-0")
        _, alive = psutil.wait_procs(decoders, timeout=10)
        assert not alive
    finally:
        daemon.stop()
