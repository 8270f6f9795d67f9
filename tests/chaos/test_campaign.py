"""A short campaign, and an auditor that finds what is wrong when something is."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.audit import Audit, table
from tests.chaos.campaign import FACTS, LEDGER, PACS_FOLDER, STATE, Figures, run_campaign
from tests.chaos.ledger import read_ledger
from tests.chaos.preload import NO_COMPILER
from tests.support.peers import needs_dcmtk

pytestmark = [
    *needs_dcmtk,
    pytest.mark.slow,
    pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER)),
]

SEED = 82  # whose first kills are of the receiver, of all at once, of the worker and of the sender
SECONDS = 12.0


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Figures]:
    """The folder of a campaign, and what happened in it."""
    root = tmp_path_factory.mktemp("campaign")
    return root, run_campaign(root, SECONDS, SEED, kill_every_s=1.5, load=0.3)


@pytest.fixture
def copy(campaign: tuple[Path, Figures], tmp_path: Path) -> Path:
    """A copy of what has to be audited, to be damaged; its files are links, so they are replaced and not written to."""
    root, _ = campaign
    for name in (FACTS, LEDGER):
        shutil.copy(root / name, tmp_path / name)
    shutil.copytree(root / STATE / "journal", tmp_path / STATE / "journal")
    for name in (PACS_FOLDER, f"{STATE}/spool", f"{STATE}/dropfolder"):
        shutil.copytree(root / name, tmp_path / name, copy_function=os.link)
    return tmp_path


def test_nothing_is_lost_doubled_or_stuck(campaign: tuple[Path, Figures]) -> None:
    root, figures = campaign
    assert sum(figures.kills.values()) >= 3
    assert figures.promised == figures.offered > 30
    findings = Audit(root).findings()
    log = (root / "appliance.log").read_text().splitlines()[-40:]
    assert all(found.is_clean for found in findings), "\n".join([table(findings), *log])
    assert all(found.held for found in findings[:-3]), "the audit has nothing to look at"


def statement(sql: str) -> Callable[[Path], None]:
    """Damage of the journal."""

    def damage(root: Path) -> None:
        with closing(sqlite3.connect(root / STATE / "journal" / "journal.sqlite3")) as journal, journal:
            journal.execute(sql)

    return damage


def remove_image(root: Path) -> None:
    """A promised file goes."""
    next((root / STATE / "spool" / "instances").rglob("*.dcm")).unlink()


def change_image(root: Path) -> None:
    """One bit of a promised file turns."""
    path = next((root / STATE / "spool" / "instances").rglob("*.dcm"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)


def keep_image_twice(root: Path) -> None:
    """The spool has a file that no row names."""
    path = next((root / STATE / "spool" / "instances").rglob("*.dcm"))
    shutil.copy(path, path.with_name("other.dcm"))


def forget_at_pacs(root: Path) -> None:
    """All that the PACS has of one result goes."""
    paths = sorted((root / PACS_FOLDER).iterdir())
    uid = paths[0].read_bytes()
    for path in paths:
        if path.read_bytes() == uid:
            path.unlink()


def deliver_under_another_uid(root: Path) -> None:
    """A result comes to the PACS again as if it were another one."""
    uid = next(read_ledger(root / LEDGER)).sop_instance_uid
    path = next(path for path in (root / PACS_FOLDER).iterdir() if uid.encode() in path.read_bytes())
    other = uid.replace(".498.", ".499.")
    path.with_name("again").write_bytes(path.read_bytes().replace(uid.encode(), other.encode()))


def deliver_other_content(root: Path) -> None:
    """A result comes to the PACS again, with other content."""
    path = next((root / PACS_FOLDER).iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.with_name("again").write_bytes(content)


def leave_in_dropfolder(root: Path) -> None:
    """A file is never taken."""
    (root / STATE / "dropfolder" / "left.dcm").write_bytes(b"left")


def promise_more(root: Path) -> None:
    """A sender was promised what nobody has."""
    first = (root / LEDGER).read_text().splitlines()[0]
    uid = next(read_ledger(root / LEDGER)).sop_instance_uid
    with (root / LEDGER).open("a") as stream:
        stream.write(first.replace(uid, f"{uid[:-4]}9999") + "\n")


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (remove_image, "lost"),
        (change_image, "lost"),
        (promise_more, "lost"),
        (forget_at_pacs, "lost"),
        (statement("DELETE FROM instance WHERE instance_id = 1"), "lost"),
        (statement("DELETE FROM result WHERE result_id = 1"), "lost"),
        (keep_image_twice, "doubled"),
        (deliver_under_another_uid, "doubled"),
        (deliver_other_content, "doubled"),
        (statement("INSERT INTO conflict VALUES (1, 'other', 'conflicts/other', 'dicom', 0)"), "doubled"),
        (leave_in_dropfolder, "stuck"),
        (statement("UPDATE series SET state = 'receiving' WHERE series_id = 1"), "stuck"),
        (statement("UPDATE tally SET rows = rows + 1 WHERE machine = 'job' AND state = 'queued'"), "stuck"),
    ],
)
def test_the_auditor_finds(damage: Callable[[Path], None], kind: str, copy: Path) -> None:
    damage(copy)
    findings = Audit(copy).findings()
    assert any(getattr(found, kind) for found in findings), table(findings)
