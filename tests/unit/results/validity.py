"""Judging DICOM files by programs of others: ``dciodvfy`` (dicom3tools) and ``dsr2html`` (dcmtk)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

needs_validators = [
    pytest.mark.peer,
    pytest.mark.skipif(
        shutil.which("dciodvfy") is None or shutil.which("dsr2html") is None,
        reason="no validators: apt install dicom3tools dcmtk",
    ),
]


needs_dsr2html = pytest.mark.skipif(shutil.which("dsr2html") is None, reason="no dsr2html: apt install dcmtk")

_NO_CHECK = "W: Check for template constraints not yet supported"
"""What dcmtk says of every key object selection that names its template."""


def errors_of(path: Path) -> list[str]:
    """The errors that ``dciodvfy`` finds in a file."""
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, errors="replace", check=False)
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def rendered(path: Path) -> str:
    """An SR as ``dsr2html`` renders it; a warning or an error of it is an ``AssertionError``."""
    html = path.with_suffix(".html")
    done = subprocess.run(["dsr2html", path, html], capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.replace(_NO_CHECK, "").strip(), done.stderr
    return html.read_text(errors="replace")
