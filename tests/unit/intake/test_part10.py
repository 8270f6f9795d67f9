"""The scanner: every encoding, every way to be wrong, and never anything but RejectedInput."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.errors import RejectedInput
from appliance.intake import byte_source
from appliance.intake.file_meta import encode_head
from appliance.intake.part10 import ScannedInstance, scan_file
from tests.support.dicom_factory import ct_series, ct_voxels, enhanced_mr, mr_voxels, write_datasets
from tests.support.received_files import (
    BIG_ENDIAN,
    COMPREHENSIVE_SR,
    CT,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    INSTANCE,
    JPEG_LS,
    SERIES,
    STUDY,
    UNDEFINED,
    data_set,
    deflate,
    element,
    item,
    part10,
    sequence_end,
    text,
)

MIB = 1024 * 1024


@pytest.fixture
def scan(tmp_path: Path):
    def scan(content: bytes, max_bytes: int = 64 * MIB) -> ScannedInstance:
        path = tmp_path / "file"
        path.write_bytes(content)
        return scan_file(path, max_bytes=max_bytes)

    return scan


def refused(scan, content: bytes, **options: int) -> RejectedInput:
    with pytest.raises(RejectedInput) as caught:
        scan(content, **options)
    assert INSTANCE not in str(caught.value)
    assert "Phantom" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_each_uncompressed_encoding(scan, syntax: str) -> None:
    content = data_set(syntax=syntax, extra=[(0x00280008, text(0x00280008, "IS", "12", syntax))])
    found = scan(part10(content, syntax))
    assert (found.sop_class_uid, found.sop_instance_uid) == (CT, INSTANCE)
    assert (found.study_instance_uid, found.series_instance_uid) == (STUDY, SERIES)
    assert found.transfer_syntax_uid == syntax
    assert found.attributes == {"Modality": "CT", "Rows": 4, "NumberOfFrames": 12}
    assert found.frames == 12
    assert found.has_pixel_data and found.has_head
    assert found.data_set_offset == len(encode_head(CT, INSTANCE, syntax))


def test_deflated(scan) -> None:
    found = scan(part10(deflate(data_set(pixels=bytes(3 * MIB))), DEFLATED))
    assert found.sop_instance_uid == INSTANCE
    assert found.has_pixel_data


def test_encapsulated_pixel_data(scan) -> None:
    fragments = item(b"") + item(bytes(100)) + item(bytes(7)[:6]) + sequence_end()
    pixels = element(0x7FE00010, "OB", b"", length=UNDEFINED) + fragments
    found = scan(part10(data_set(pixels=None, extra=[(0x7FE00010, pixels)]), JPEG_LS))
    assert found.has_pixel_data


def test_no_pixel_data_is_no_error(scan) -> None:
    found = scan(part10(data_set(sop_class=COMPREHENSIVE_SR, modality="SR", pixels=None)))
    assert not found.has_pixel_data
    assert found.frames == 1


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_nested_values_are_not_mistaken_for_those_of_the_instance(scan, syntax: str) -> None:
    inner = text(0x00080018, "UI", "9.9.9", syntax)
    nested = b""
    big = syntax == BIG_ENDIAN
    for undefined in (True, False):
        nested += item(inner, undefined=undefined, big_endian=big)
    sequence = element(0x00081140, "SQ", b"", syntax, length=UNDEFINED) + nested + sequence_end(big)
    found = scan(part10(data_set(syntax=syntax, extra=[(0x00081140, sequence)]), syntax))
    assert found.sop_instance_uid == INSTANCE


def test_unknown_vr_of_undefined_length_is_implicit_inside(scan) -> None:
    inner = item(text(0x00080018, "UI", "9.9.9", IMPLICIT), undefined=True) + sequence_end()
    private = element(0x00091010, "UN", b"", length=UNDEFINED) + inner
    assert scan(part10(data_set(extra=[(0x00091010, private)]))).has_pixel_data


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_bare_data_sets_are_recognised(scan, syntax: str) -> None:
    found = scan(data_set(syntax=syntax))
    assert found.transfer_syntax_uid == syntax
    assert not found.has_head
    assert found.data_set_offset == 0


def test_file_meta_without_preamble(scan) -> None:
    found = scan(part10(data_set())[132:])
    assert not found.has_head
    assert found.data_set_offset == len(encode_head(CT, INSTANCE, EXPLICIT)) - 132


def test_values_are_typed(scan) -> None:
    extra = [
        (0x00080005, text(0x00080005, "CS", "ISO_IR 100")),
        (0x00080008, text(0x00080008, "CS", "ORIGINAL\\PRIMARY\\AXIAL")),
        (0x0008103E, text(0x0008103E, "LO", "Schädel ")),
        (0x00180050, text(0x00180050, "DS", " 2.50")),
        (0x00180081, text(0x00180081, "DS", "nan")),
        (0x00180082, text(0x00180082, "DS", "1e999")),
        (0x00181030, text(0x00181030, "LO", "x" * 2000)),
        (0x00185101, text(0x00185101, "CS", "")),
    ]
    assert scan(part10(data_set(extra=extra))).attributes == {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Modality": "CT",
        "SeriesDescription": "Schädel",
        "SliceThickness": 2.5,
        "Rows": 4,
    }


@pytest.mark.parametrize(
    ("written", "count"),
    [("300", 300), (" 300", 300), ("", 0), ("0", 0), ("-3", 0), ("many", 0), ("2147483648", 0), ("3\\\\4", 0)],
)
def test_images_in_acquisition_is_a_number_or_nothing(scan, written: str, count: int) -> None:
    extra = [(0x00201002, text(0x00201002, "IS", written))]
    assert scan(part10(data_set(extra=extra))).images_in_acquisition == count


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am a letter and not an image", "not-dicom"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not-dicom"),
        (bytes(4096), "not-dicom"),
        (bytes(128) + b"DICM", "truncated"),
        (part10(b""), "truncated"),
        (part10(data_set())[:-1], "truncated"),
        (part10(data_set())[:300], "truncated"),
        (part10(data_set() + b"\0"), "truncated"),
        (part10(data_set(extra=[(0x00091010, element(0x00091010, "UN", b"", length=2**31 - 1))])), "truncated"),
        (part10(data_set(), "1.2.840.10008.1.2.4.100"), "unsupported-transfer-syntax"),
        (part10(data_set(), "../etc"), "unsupported-transfer-syntax"),
        (part10(data_set(instance="")), "missing-uid"),
        (part10(data_set(series="")), "missing-uid"),
        (part10(data_set(instance="../../../etc/passwd")), "bad-uid"),
        (part10(data_set(study="1.2.3/..")), "bad-uid"),
        (part10(data_set(series="1." * 40 + "1")), "bad-uid"),
        (part10(data_set(extra=[(0x00280008, text(0x00280008, "IS", "-3"))])), "malformed"),
        (part10(data_set(extra=[(0x00091010, text(0x00091010, "??", ""))])), "malformed"),
        (part10(data_set() + text(0x00080018, "UI", "1.2.9")), "malformed"),
        (part10(data_set() + sequence_end()), "malformed"),
        (part10(data_set() + item(b"")), "malformed"),
        (part10(b"not deflated at all", DEFLATED), "malformed"),
        (part10(deflate(data_set())[:-4], DEFLATED), "truncated"),
        (part10(deflate(data_set()[:-4]), DEFLATED), "truncated"),
        (encode_head("1.2.840.10008.1.3.10", "1.2", EXPLICIT) + data_set(), "dicomdir"),
    ],
)
def test_what_is_refused_and_why(scan, content: bytes, reason: str) -> None:
    assert refused(scan, content).reason == reason


def test_refusals_say_what_to_do(scan) -> None:
    error = refused(scan, part10(data_set())[:-1])
    assert "ends before it is complete" in str(error)
    assert error.mend is not None


def test_too_big(scan) -> None:
    assert refused(scan, part10(data_set(pixels=bytes(2 * MIB))), max_bytes=MIB).reason == "too-big"


def test_deflate_bomb(scan) -> None:
    bomb = part10(deflate(data_set(pixels=bytes(200 * MIB))), DEFLATED)
    assert len(bomb) < MIB
    tracemalloc.start()
    assert refused(scan, bomb, max_bytes=MIB).reason == "too-big"
    assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    tracemalloc.stop()


def test_what_is_inflated_has_a_limit_of_its_own(scan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may be larger than what a worker could inflate in its memory."""
    monkeypatch.setattr(byte_source, "MAX_INFLATED_BYTES", MIB)
    content = data_set(pixels=bytes(2 * MIB))
    assert refused(scan, part10(deflate(content), DEFLATED), max_bytes=64 * MIB).reason == "too-big"
    assert scan(part10(content), 64 * MIB).has_pixel_data


def test_endless_nesting(scan) -> None:
    level = element(0x00081140, "SQ", b"", length=UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
    assert refused(scan, part10(data_set() + level * 100_000)).found == "sequences nested deeper than 32"


def test_endless_elements_take_bounded_time(scan) -> None:
    pixels = element(0x7FE00010, "OB", b"", length=UNDEFINED) + item(b"") * 1_100_000
    started = time.monotonic()
    assert refused(scan, part10(data_set(pixels=None) + pixels)).reason == "malformed"
    assert time.monotonic() - started < 20


def test_a_long_value_is_not_loaded(scan) -> None:
    content = part10(data_set(pixels=bytes(40 * MIB)))
    tracemalloc.start()
    scan(content)
    assert tracemalloc.get_traced_memory()[1] < MIB
    tracemalloc.stop()


def test_real_writers_agree(tmp_path: Path) -> None:
    datasets = [*ct_series(ct_voxels(2, 16, 16)), enhanced_mr(mr_voxels(5, 16, 16))]
    for dataset, path in zip(datasets, write_datasets(datasets, tmp_path), strict=True):
        found = scan_file(path, max_bytes=MIB)
        assert found.sop_instance_uid == dataset.SOPInstanceUID
        assert found.series_instance_uid == dataset.SeriesInstanceUID
        assert found.frames == int(dataset.get("NumberOfFrames", 1))
        assert found.attributes["Rows"] == 16
        assert found.attributes["ImageType"] == list(dataset.ImageType)


_VALID = [
    part10(
        data_set(extra=[(0x00081140, element(0x00081140, "SQ", b"", length=UNDEFINED) + item(b"") + sequence_end())])
    ),
    part10(data_set(syntax=IMPLICIT), IMPLICIT),
    part10(data_set(syntax=BIG_ENDIAN), BIG_ENDIAN),
    part10(deflate(data_set()), DEFLATED),
    data_set(syntax=IMPLICIT),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid file with some bytes overwritten, a piece cut out or repeated."""
    content = bytearray(draw(st.sampled_from(_VALID)))
    # Most of a file is its preamble; what matters comes after.
    start = min(132, len(content) // 4)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(start, len(content) - 1))
        patch = draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 4, b"\xfe\xff\x00\xe0"])))
        content[at : at + len(patch)] = patch
    cut = draw(st.integers(0, len(content)))
    again = draw(st.integers(0, len(content)))
    return bytes(content[:cut] + content[again:])


@settings(max_examples=600, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=mutated())
def test_mutations_are_read_or_refused_and_nothing_else(scan, content: bytes) -> None:
    try:
        scan(content, MIB)
    except RejectedInput as refusal:
        assert refusal.reason
