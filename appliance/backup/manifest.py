"""What a backup consists of.

A backup is a folder: ``manifest.json``, a copy of the journal, the files that it names below ``spool/`` as they lie in
the state folder, and their checksums in the form of ``sha256sum``. The manifest is written last and replaced as a
whole: what it names is a whole backup, whatever has happened to a later one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from appliance.errors import BackupError
from appliance.spool.durable import write_durably

MANIFEST: Final = "manifest.json"
_FORMAT: Final = 1
_SUM = re.compile(r"([0-9a-f]{64})  (\S+)")


@dataclass(frozen=True, slots=True)
class Manifest:
    """``manifest.json``.

    Attributes
    ----------
    generation
        1 for the first backup in a folder, one more for each later one.
    schema
        Version of the journal's schema.
    began_at
        ISO 8601, UTC. What was acknowledged before is in the backup.
    journal, sums
        Names of the copy of the journal and of the file of checksums.
    sums_sha256
        Of the file of checksums, which has that of everything else.
    files, bytes
        Without the journal.
    """

    generation: int
    appliance: str
    schema: int
    began_at: str
    journal: str
    sums: str
    sums_sha256: str
    files: int
    bytes: int


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a backup, ``None`` when there is none.

    Raises
    ------
    BackupError
        It is damaged, or of a format of later versions.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="ascii"))
        if content.pop("format") != _FORMAT:
            raise BackupError(
                f"the backup in {folder} is of another format",
                expected=f"format {_FORMAT}",
                mend="Restore it with the appliance version that made it, or a newer one",
            )
        return Manifest(**content)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackupError(
            f"the manifest of the backup in {folder} is damaged",
            found=str(error),
            mend="Take another backup; to make a new one, name an empty folder",
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make the backup that ``manifest`` describes the one that the folder holds."""
    write_durably(folder / MANIFEST, (json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=2) + "\n").encode())


def encode_sums(entries: Iterable[tuple[str, str]]) -> bytes:
    """Lines of ``sha256sum``: pairs of a checksum and a path below the backup's folder."""
    return "".join(f"{sha256}  {path}\n" for sha256, path in entries).encode("ascii")


def read_sums(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the pairs of checksum and path, once all of them are known to be sound.

    Raises
    ------
    BackupError
        The file is missing or damaged.
    """
    path = folder / manifest.sums
    try:
        content = path.read_bytes()
    except OSError as error:
        raise damaged(folder, f"{manifest.sums}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != manifest.sums_sha256:
        raise damaged(folder, f"{manifest.sums}: its SHA-256 is another")
    for line in content.decode("ascii").splitlines():
        match = _SUM.fullmatch(line)
        if match is None or Path(match[2]).is_absolute() or ".." in Path(match[2]).parts:
            raise damaged(folder, f"{manifest.sums}: a line that is no checksum of a file in it")
        yield match[1], match[2]


def damaged(folder: Path, found: str) -> BackupError:
    """The error that says what is wrong with a backup."""
    return BackupError(
        f"the backup in {folder} is damaged",
        found=found,
        expected="every file as it was written",
        mend="Nothing was restored. Take another backup",
    )
