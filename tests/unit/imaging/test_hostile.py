"""Damaged headers end in ``UnsuitableImage``, never in another error: a defect would be tried again in vain."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from appliance.errors import UnsuitableImage
from appliance.imaging.loading import load_image
from appliance.manifest.manifest import InputSpec
from tests.support.dicom_factory import (
    chest_pixels,
    ct_voxels,
    enhanced_ct,
    mr_series,
    mr_voxels,
    radiograph,
    write_datasets,
)
from tests.support.received_files import UNDEFINED, data_set, element, item, part10, sequence_end


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["classic", "enhanced", "projection"])
def test_mutated_files(kind: str, seed: int, tmp_path: Path) -> None:
    rng = random.Random(f"{kind}{seed}")
    if kind == "classic":
        paths = write_datasets(mr_series(mr_voxels(3, 6, 5)), tmp_path)
    elif kind == "enhanced":
        paths = write_datasets([enhanced_ct(ct_voxels(3, 6, 5))], tmp_path)
    else:
        paths = write_datasets([radiograph(chest_pixels(6, 5))], tmp_path)
    spec = InputSpec(kind="projection" if kind == "projection" else "volume", apply_voi=True)
    original = paths[-1].read_bytes()
    loaded = 0
    for _ in range(60):
        content = bytearray(original)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(128, len(content))] = rng.randrange(256)
        if rng.random() < 0.2:
            del content[rng.randrange(140, len(content)) :]
        paths[-1].write_bytes(content)
        try:
            load_image(paths, spec)
            loaded += 1
        except UnsuitableImage as error:
            assert error.reason
    assert loaded < 60


def test_endless_nesting(tmp_path: Path) -> None:
    """pydicom reads sequences within sequences by recursion."""
    inner = b""
    for _ in range(1000):
        inner = element(0x0040A730, "SQ", b"", length=UNDEFINED) + item(inner) + sequence_end()
    path = tmp_path / "deep.dcm"
    path.write_bytes(part10(data_set(extra=[(0x0040A730, inner)])))
    with pytest.raises(UnsuitableImage) as caught:
        load_image([path], InputSpec(kind="volume"))
    assert caught.value.reason == "unreadable"


def test_a_run_that_is_longer_than_the_image(tmp_path: Path) -> None:
    """pylibjpeg-rle, which is written in Rust, panics: that is no ``Exception``, and would end the worker."""
    dataset = radiograph(chest_pixels(16, 16))
    segment = b"\xf1\x00" * 16  # sixteen times sixteen zeros
    head = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([head + segment + segment[:-2] + b"\xf0\x00"])
    paths = write_datasets([dataset], tmp_path)
    with pytest.raises(UnsuitableImage) as caught:
        load_image(paths, InputSpec(kind="projection"))
    assert caught.value.reason == "undecodable"


def test_a_transfer_syntax_that_is_none_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(part10(data_set(), "1.2.840.10008.1.2.1.99 DOE^JOHN"))
    with pytest.raises(UnsuitableImage) as caught:
        load_image([path], InputSpec(kind="projection"))
    assert "DOE" not in str(caught.value)
