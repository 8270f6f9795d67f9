"""The drop folder: whatever is copied into it, under whatever name."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from appliance.config.settings import DropFolder as DropFolderSettings
from appliance.intake.dropfolder import DropFolder
from appliance.intake.quiet_files import _LITTER, _is_unfinished
from appliance.intake.shelf import RejectedShelf
from tests.fuzz.target import Target
from tests.support.reception import Reception

_MIB = 1024 * 1024
_AT_ONCE = 1e-9


class Dropped(Target):
    """A case is a line with a path, and the content of the file; ``link:`` and ``pipe:`` make something else of it.

    The folder is looked through by the fuzzer's own thread, twice for each case: seen, then taken.
    """

    name = "dropfolder"
    hang_s = 10.0
    memory_mib = 128

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._turn = 0
        self._begin()

    def _begin(self) -> None:
        self._turn += 1
        self._root = self.folder / str(self._turn)
        self._reception = reception = Reception(self._root, max_instance_bytes=_MIB)
        self._drop = reception.layout.dropfolder
        self._drop.mkdir(parents=True)
        self._watched = DropFolder(
            DropFolderSettings(quiet_s=_AT_ONCE, max_archive_bytes=4 * _MIB),
            self._drop,
            reception.store,
            RejectedShelf(reception.spool, reception.journal),
            reception.assembler,
            on_fatal=reception.fatal.set,
        )

    def run(self, case: bytes) -> None:
        """Drop it, and look twice."""
        self._clear()
        name, _, content = case.partition(b"\n")
        if not self._drop_in(name, content):
            return
        for _ in range(2):
            self._watched._look()
        assert not self._reception.fatal.is_set()
        assert not self._reception.incoming(), "something is left in incoming"
        for parent, folders, names in os.walk(os.fsencode(self._drop)):
            folders[:] = [found for found in folders if not found.startswith(b".")]
            for found in names:
                path = os.path.join(parent, found)  # noqa: PTH118 - bytes
                if not os.path.islink(path) and os.path.isfile(path):  # noqa: PTH113, PTH114 - bytes
                    text = os.fsdecode(found)
                    assert _is_unfinished(text) or text in _LITTER, "a file was not taken"

    def check(self) -> None:
        """A good file is taken; then all begins anew, so that what was kept does not pile up."""
        before = self._taken()
        self.run(self.corpus()[0])
        assert self._taken() == before + 1
        self.stop()
        shutil.rmtree(self._root)
        self._begin()

    def stop(self) -> None:
        """Close the journal."""
        self._reception.stop()

    def _taken(self) -> int:
        # Other content under the same UID may have come before.
        return sum(self._reception.count(outcome, "dropfolder") for outcome in ("stored", "duplicate", "conflict"))

    def _drop_in(self, name: bytes, content: bytes) -> bool:
        kind, colon, rest = name.partition(b":")
        special = kind if colon and kind in (b"link", b"pipe") else b""
        parts = [part[:200] for part in (rest if special else name).replace(b"\0", b"").split(b"/")]
        parts = [part for part in parts if part not in (b"", b".", b"..")][:30]
        if not parts:
            return False
        path = os.fsencode(self._drop)
        for part in parts[:-1]:
            path = os.path.join(path, part)  # noqa: PTH118 - bytes
            os.makedirs(path, exist_ok=True)  # noqa: PTH103 - bytes
        path = os.path.join(path, parts[-1])  # noqa: PTH118 - bytes
        if special == b"link":
            os.symlink(content[:200].replace(b"\0", b"") or b"x", path)  # noqa: PTH211 - bytes
        elif special == b"pipe":
            os.mkfifo(path)
        else:
            with open(path, "wb") as stream:  # noqa: PTH123 - bytes
                stream.write(content)
        return True

    def _clear(self) -> None:
        for entry in os.scandir(os.fsencode(self._drop)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)  # noqa: PTH108 - bytes


_NAMES = (
    "../../PLANTED.dcm",
    "/etc/passwd",
    "C:\\PLANTED\\1.dcm",
    "PLANTED\n\x1b[31m.dcm",
    "a" * 60_000,
    "ünï/cødé.dcm",
    "__MACOSX/x",
    ".hidden",
    "",
    "dir/",
    "nul\0nul",
)

_PATHS = (
    b"link:PLANTED",
    b"pipe:PLANTED",
    b"PLANTED/" * 28 + b"x",
    b"\xff\xfe PLANTED",
    b"-rf",
    b"*",
    b"PLANTED.part",
    b"Thumbs.db",
    b"PLANTED.zip",
    b"PLANTED\r\x1b[2J.dcm",
    b".PLANTED",
    b"a" * 200,
    b"PLANTED/link:x",
)


def _packed(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    """The case, and other files, in an archive that may hold anything."""
    line, _, content = bytes(case).partition(b"\n")
    target = io.BytesIO()
    with zipfile.ZipFile(
        target, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    ) as archive:
        for number in range(rng.choice((1, 1, 2, 5, 300))):
            info = zipfile.ZipInfo(rng.choice((f"PLANTED{number}", *_NAMES)))
            info.compress_type = archive.compression
            if rng.random() < 0.1:
                info.external_attr = rng.choice((0o120777 << 16, 0o010644 << 16, 0o040755 << 16, 0x10))
            inside = rng.choice((content, rng.choice(seeds).partition(b"\n")[2], bytes(rng.choice((0, 1, 2 * _MIB)))))
            archive.writestr(info, inside if number < 3 else b"x")
    case[:] = line + b"\n" + target.getvalue()


def _lying_directory(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    """A field of one of the archive's records is another."""
    marks = [at for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06") for at in _all(case, mark)]
    if marks:
        at = rng.choice(marks) + 4 + 2 * rng.randrange(20)
        case[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, len(case))))


def _squeezed(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    """The content compressed: by gzip, or as a deflated data set that grows a thousandfold."""
    line, _, content = bytes(case).partition(b"\n")
    content += bytes(rng.choice((0, 3 * _MIB)))
    if rng.random() < 0.5:
        case[:] = line + b"\n" + zlib.compress(content, wbits=31)
    else:
        at = content.find(b"1.2.840.10008.1.2.1\0")
        if at > 0:
            head, rest = content[:at] + b"1.2.840.10008.1.2.1.99", content[at + 20 :]
            case[:] = line + b"\n" + head + zlib.compress(rest, wbits=-15)


def _named(rng: random.Random, case: bytearray, seeds: Sequence[bytes]) -> None:
    """Another path."""
    _, _, content = bytes(case).partition(b"\n")
    case[:] = rng.choice(_PATHS) + b"\n" + content


def _all(case: bytearray, mark: bytes) -> list[int]:
    found, at = [], case.find(mark)
    while at >= 0:
        found.append(at)
        at = case.find(mark, at + 1)
    return found


Dropped.steps = (_packed, _lying_directory, _squeezed, _named)
