"""What images say about the number of a series' images, and when that is taken for true."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.intake.part10 import scan_file
from appliance.intake.signs import announced_images
from tests.support.received_files import data_set, part10, text

ORIGINAL = "ORIGINAL\\PRIMARY\\AXIAL"


@pytest.mark.parametrize(
    ("number", "image_type", "frames", "announced"),
    [
        ("300", ORIGINAL, "", 300),
        ("300", "ORIGINAL", "1", 300),
        ("300", "DERIVED\\SECONDARY\\MPR", "", 0),
        ("300", "", "", 0),
        ("300", ORIGINAL, "20", 0),
        ("1", ORIGINAL, "", 0),
        ("", ORIGINAL, "", 0),
    ],
)
def test_announced_images(tmp_path: Path, number: str, image_type: str, frames: str, announced: int) -> None:
    elements = [(0x00080008, "CS", image_type), (0x00201002, "IS", number), (0x00280008, "IS", frames)]
    extra = [(tag, text(tag, vr, value)) for tag, vr, value in elements if value]
    path = tmp_path / "image"
    path.write_bytes(part10(data_set(extra=extra)))
    assert announced_images(scan_file(path, max_bytes=1 << 20)) == announced
