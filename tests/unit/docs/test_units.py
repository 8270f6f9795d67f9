"""systemd units: systemd reads them, their commands are ours, and each group of settings has its reason above it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.cli.main import _parser

FOLDER = Path(__file__).parents[3] / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
PROGRAM = "/usr/bin/appliance"
MOST_EXPOSURE = 1.5
"""By systemd's own measure, where 10 is unprotected."""

units = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)


def settings(unit: Path, name: str) -> list[str]:
    """All values of a setting, in order."""
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


@units
def test_every_command_is_one_of_ours(unit: Path) -> None:
    commands = settings(unit, "ExecStart")
    assert commands
    for command in commands:
        program, *arguments = command.lstrip("-").split()
        assert program == PROGRAM
        assert callable(_parser().parse_args(arguments).command)


@units
def test_every_group_of_settings_says_why(unit: Path) -> None:
    """Groups are paragraphs; those that only say what the unit is need no reason."""
    _, _, service = unit.read_text().partition("[Service]")
    body, _, _ = service.partition("[Install]")
    for paragraph in body.strip().split("\n\n")[1:]:
        assert paragraph.startswith("# "), paragraph


@units
def test_every_unit_is_in_the_readme(unit: Path) -> None:
    assert f"`{unit.name}`" in (FOLDER / "README.md").read_text()


@units
def test_systemd_takes_it_and_finds_it_well_protected(unit: Path, tmp_path: Path) -> None:
    """On a copy that names a program that is there: whether ours is installed is not the question."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here (Debian package systemd)")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={int(MOST_EXPOSURE * 10)}", str(copy)],
        capture_output=True,
        check=True,
    )


def test_engines_are_ready_before_workers_and_reception_never_waits() -> None:
    unit = FOLDER / "appliance-engines.service"
    first = settings(unit, "Before")[0].split()
    assert {"appliance-worker@0.service", "appliance-worker@1.service"} <= set(first)
    assert not any("receiver" in name for name in first)
    assert not settings(unit, "RequiredBy")
    convert, verify = settings(unit, "ExecStart")
    assert " models convert --all " in convert and convert.startswith("-")
    assert " models verify --all " in verify and not verify.startswith("-")
