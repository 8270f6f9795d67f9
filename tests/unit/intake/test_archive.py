"""Zip archives are judged before they are unpacked."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from appliance.errors import RejectedInput
from appliance.intake.archive import Archive, is_archive

KIB = 1024


def packed(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def opened(content: bytes, max_bytes: int = 1024 * KIB) -> Archive:
    return Archive(io.BytesIO(content), max_bytes=max_bytes, max_member_bytes=512 * KIB)


def reason(content: bytes, **options: int) -> str:
    with pytest.raises(RejectedInput) as caught:
        archive = opened(content, **options)
        for info in archive.members:
            archive.unpack(info, io.BytesIO().write)
    return caught.value.reason


def test_members_without_what_desktops_add() -> None:
    archive = opened(packed({"a/1": b"one", "a/.DS_Store": b"x", "__MACOSX/a/._1": b"x", "a/b/": b"", "2": b"two"}))
    assert [info.filename for info in archive.members] == ["a/1", "2"]
    target = io.BytesIO()
    archive.unpack(archive.members[0], target.write)
    assert target.getvalue() == b"one"


def test_recognised_by_content() -> None:
    assert is_archive(packed({"1": bytes(200)})[:132])
    assert not is_archive(b"PK\x03\x04" + bytes(124) + b"DICM")


def test_a_member_without_a_name_is_a_member() -> None:
    """``zipfile`` says so with an IndexError when it is asked whether that is a folder."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"x")
    assert len(opened(stream.getvalue()).members) == 1


def test_a_directory_that_begins_before_the_file(tmp_path: Path) -> None:
    """The disk refuses to seek there: nothing that would be better the next time."""
    content = bytearray(packed({"1": b"x"}))
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = struct.pack("<I", 2**20)
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with path.open("rb") as stream, pytest.raises(RejectedInput) as caught:
        Archive(stream, max_bytes=KIB, max_member_bytes=KIB)
    assert caught.value.reason == "damaged-archive"


def test_encrypted() -> None:
    content = bytearray(packed({"1": b"secret"}))
    directory = content.find(b"PK\x01\x02")
    content[6] |= 1
    content[directory + 8] |= 1
    assert reason(bytes(content)) == "encrypted-archive"


def test_bomb() -> None:
    assert reason(packed({str(number): bytes(400 * KIB) for number in range(3)})) == "archive-too-big"
    assert reason(packed({"1": bytes(600 * KIB)})) == "archive-too-big"


def test_bomb_within_the_limits() -> None:
    """What may be unpacked is many gigabytes: few kilobytes must not have the disk write them."""
    zeros = packed({"1": bytes(80 * KIB * KIB)})
    with pytest.raises(RejectedInput) as caught:
        Archive(io.BytesIO(zeros), max_bytes=KIB**3, max_member_bytes=KIB**3)
    assert caught.value.reason == "archive-too-big"
    assert "80 MiB out of" in str(caught.value)
    stored = packed({"1": bytes(80 * KIB * KIB)}, zipfile.ZIP_STORED)
    assert len(Archive(io.BytesIO(stored), max_bytes=KIB**3, max_member_bytes=KIB**3).members) == 1


def test_a_member_cannot_be_larger_than_it_says() -> None:
    content = bytearray(packed({"1": bytes(400 * KIB)}))
    directory = content.find(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", 10)
    assert reason(bytes(content)) == "damaged-archive"


def test_huge_directory_is_not_read() -> None:
    content = bytearray(packed({"1": b"x"}))
    end = content.rfind(b"PK\x05\x06")
    content[end + 12 : end + 16] = struct.pack("<I", 2**31)
    assert reason(bytes(content)) == "archive-too-big"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (packed({}), "empty-archive"),
        (packed({"only/": b""}), "empty-archive"),
        (packed({"1": b"x" * 100})[:60], "damaged-archive"),
        (packed({"1": b"x" * 100}, zipfile.ZIP_LZMA), "damaged-archive"),
        (packed({"1": b"x" * 100}, zipfile.ZIP_STORED).replace(b"xxx", b"xyx", 1), "damaged-archive"),
        (b"PK\x03\x04" + bytes(500), "damaged-archive"),
    ],
    # Zip files hold the time at which they were made: as names they would differ between the test processes.
    ids=["no-members", "only-a-folder", "cut-off", "lzma", "wrong-checksum", "garbage"],
)
def test_damaged(content: bytes, expected: str) -> None:
    assert reason(content) == expected
