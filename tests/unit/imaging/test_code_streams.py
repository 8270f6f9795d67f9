"""Frames that say that they are larger than the image are refused before a decoder asks for the memory."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from appliance.errors import UnsuitableImage
from appliance.imaging.code_streams import check_frame, declared_sizes
from appliance.imaging.loading import load_image
from appliance.manifest.manifest import InputSpec
from tests.support.dicom_factory import chest_pixels, radiograph, write_datasets

ROWS, COLUMNS = 48, 40


def frame_of(syntax: str) -> bytes:
    dataset = radiograph(chest_pixels(ROWS, COLUMNS))
    dataset.compress(syntax)
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


def in_jp2(frame: bytes) -> bytes:
    """In a file of its own, whose first box holds what looks like another code stream."""
    decoy = b"\xff\x4f\xff\x51" + struct.pack(">HHIIII", 41, 0, ROWS, COLUMNS, 0, 0) + bytes(40)
    boxes = [(b"jP  ", b"\r\n\x87\n"), (b"uuid", decoy), (b"jp2c", frame)]
    return b"".join(struct.pack(">I4s", 8 + len(content), kind) + content for kind, content in boxes)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_sizes_of_what_encoders_write(syntax: str) -> None:
    assert declared_sizes(frame_of(syntax)) == [(ROWS, COLUMNS, 1)]
    check_frame(frame_of(syntax), (ROWS, COLUMNS, 1))


@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPEG2000.dcm"])
def test_sizes_in_files_of_other_makers(name: str) -> None:
    dataset = dcmread(get_testdata_file(name, download=False))
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    assert declared_sizes(frame) == [(dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)]


def test_jpeg_2000_in_a_file_of_its_own() -> None:
    assert declared_sizes(in_jp2(frame_of(JPEG2000Lossless))) == [(ROWS, COLUMNS, 1)]


@pytest.mark.parametrize("frame", [b"", b"\xff\xd8", b"\xff\xd8\xff\xc3\x00\x0b", b"\xff\x4f\xff\x51", bytes(100)])
def test_what_cannot_be_read_is_left_to_the_decoder(frame: bytes) -> None:
    assert declared_sizes(frame) == []


def test_a_frame_without_an_end() -> None:
    """CharLS would take seconds to refuse it."""
    frame = frame_of(JPEGLSLossless)
    check_frame(frame + bytes(3), (ROWS, COLUMNS, 1))
    damaged = frame.rstrip(b"\0")[:-2] + b"\x00\xd9"
    with pytest.raises(UnsuitableImage) as caught:
        check_frame(damaged, (ROWS, COLUMNS, 1))
    assert "EOI" in str(caught.value)


def test_a_frame_that_would_decode_hugely(tmp_path: Path) -> None:
    dataset = radiograph(chest_pixels(ROWS, COLUMNS))
    dataset.compress(JPEG2000Lossless)
    frame = bytearray(next(generate_frames(dataset.PixelData, number_of_frames=1)))
    frame[8:16] = struct.pack(">II", 60_000, 60_000)
    dataset.PixelData = encapsulate([bytes(frame)])
    paths = write_datasets([dataset], tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(UnsuitableImage) as caught:
            load_image(paths, InputSpec(kind="projection"))
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert caught.value.reason == "undecodable"
    assert "60000 × 60000" in str(caught.value)
