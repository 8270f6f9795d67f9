"""Compressed images are decoded in processes of their own: the same pixels, and what happens when one of them ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from appliance.errors import DecoderLost, UnsuitableImage
from appliance.imaging.decoders import Decoders
from appliance.imaging.source import DecodedFiles, PlainFiles
from tests.support.dicom_factory import ct_series, ct_voxels, write_datasets
from tests.support.waiting import wait_for


class Crashes:
    """Counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def crashes() -> Crashes:
    return Crashes()


@pytest.fixture
def decoders(crashes: Crashes) -> Iterator[Decoders]:
    made = Decoders(1, on_crash=crashes)
    yield made
    made.close()


def compressed_slice(folder: Path, syntax: str = JPEGLSLossless) -> Path:
    dataset = ct_series(ct_voxels(2, 64, 48))[1]
    dataset.compress(syntax, generate_instance_uid=False)
    return write_datasets([dataset], folder)[0]


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
def test_the_pixels_are_the_same(syntax: str, decoders: Decoders, tmp_path: Path) -> None:
    path = compressed_slice(tmp_path, syntax)
    plain, decoded = PlainFiles(), DecodedFiles(decoders)
    expected, found = plain.stored_values(plain.read(path)), decoded.stored_values(decoded.read(path))
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert found[0].tobytes() == dcmread(path).pixel_array.tobytes()


def test_what_is_not_compressed_needs_no_process(decoders: Decoders, tmp_path: Path) -> None:
    (path,) = write_datasets(ct_series(ct_voxels(1, 8, 8)), tmp_path)
    source = DecodedFiles(decoders)
    assert source.stored_values(source.read(path)).shape == (1, 8, 8)
    assert decoders.pids() == []


def test_refusals_are_those_of_decoding_here(decoders: Decoders, tmp_path: Path) -> None:
    path = compressed_slice(tmp_path)
    content = path.read_bytes()
    start = content.rindex(b"\xff\xd8\xff")  # start of the JPEG-LS code stream
    path.write_bytes(content[: start + 4] + bytes(len(content) - start - 12) + content[-8:])
    reasons = []
    for source in (PlainFiles(), DecodedFiles(decoders)):
        with pytest.raises(UnsuitableImage) as refusal:
            source.stored_values(source.read(path))  # type: ignore[attr-defined]
        reasons.append((refusal.value.reason, str(refusal.value)))
    assert reasons[0] == reasons[1]
    assert reasons[0][0] == "undecodable"


def test_a_damaged_code_stream_is_no_image(tmp_path: Path) -> None:
    """Another decoder of JPEG-LS than the one that is used makes some image of it."""
    path = compressed_slice(tmp_path)
    content = path.read_bytes()
    middle = (content.rindex(b"\xff\xd8\xff") + len(content)) // 2
    path.write_bytes(content[:middle] + bytes(len(content) - middle - 8) + content[-8:])
    with pytest.raises(UnsuitableImage) as refusal:
        PlainFiles().stored_values(PlainFiles().read(path))
    assert refusal.value.reason == "undecodable"


def test_a_file_that_is_gone_is_an_error_of_the_disk(decoders: Decoders, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decoders.submit(tmp_path / "gone.dcm").result()


def test_a_decoder_that_was_killed_is_started_again(decoders: Decoders, crashes: Crashes, tmp_path: Path) -> None:
    path = compressed_slice(tmp_path)
    expected = decoders.submit(path).result()
    (pid,) = decoders.pids()
    os.kill(pid, signal.SIGKILL)
    assert np.array_equal(decoders.submit(path).result(), expected)
    assert crashes.count == 1
    assert decoders.pids() not in ([pid], [])


def test_an_image_that_takes_too_long_is_refused(crashes: Crashes, tmp_path: Path) -> None:
    """The kernel ends the process, as it does when native code runs into memory that is not its own."""
    decoders = Decoders(1, time_limit_s=1e-4, on_crash=crashes)
    try:
        with pytest.raises(UnsuitableImage, match=f"signal {signal.SIGALRM.value}") as refusal:
            decoders.submit(compressed_slice(tmp_path)).result()
        assert refusal.value.reason == "undecodable"
        assert crashes.count == 2
    finally:
        decoders.close()


def test_one_that_is_killed_again_and_again_is_not_the_fault_of_the_image(decoders: Decoders, tmp_path: Path) -> None:
    """It is for want of memory, perhaps: the job is tried again, and the image is read afresh."""
    path = compressed_slice(tmp_path)
    decoders.submit(path).result()
    source, over = DecodedFiles(decoders), threading.Event()

    def kill() -> None:
        while not over.is_set():
            for pid in decoders.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(DecoderLost):
            source.stored_values(source.read(path))
    finally:
        over.set()
        killer.join()
    assert source.stored_values(source.read(path)).shape == (1, 64, 48)


def test_decoders_end_with_their_worker(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from appliance.imaging.decoders import Decoders;"
        "d = Decoders(1); d.submit(Path(sys.argv[1])).result(); print(d.pids()[0], flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(compressed_slice(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        worker.kill()
    wait_for(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE,
        timeout_s=10,
        what="the decoder to end",
    )
