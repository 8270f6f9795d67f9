"""What images say about the number of a series' images, and when that is taken for true."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from appliance.errors import RejectedInput
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


def test_what_real_scanners_say_is_true_or_not_taken() -> None:
    """Philips writes the series' number, GE 1 for each slice, and projections keep their sources' number."""
    series: dict[str, list[tuple[int, int]]] = {}
    for path in Path(get_testdata_file("DICOMDIR", download=False) or "").parent.rglob("*"):
        if path.is_file() and path.name != "DICOMDIR":
            try:
                scanned = scan_file(path, max_bytes=1 << 24)
            except RejectedInput:
                continue
            said = series.setdefault(scanned.series_instance_uid, [])
            said.append((scanned.images_in_acquisition, announced_images(scanned)))
    saying = {uid: said for uid, said in series.items() if any(number for number, _ in said)}
    assert len(saying) >= 7
    for said in saying.values():
        assert {announced for _, announced in said} in ({0}, {len(said)})
    assert {announced for said in saying.values() for _, announced in said} == {0, 3}
