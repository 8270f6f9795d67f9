"""The files of the schema are numbered without gaps, and each says its number: two with one number would be swapped."""

from __future__ import annotations

import re
from pathlib import Path

SCHEMA = Path(__file__).parents[3] / "appliance" / "journal" / "schema"


def test_numbers() -> None:
    files = sorted(SCHEMA.glob("*.sql"))
    assert [int(path.name[:4]) for path in files] == list(range(1, len(files) + 1))
    for number, path in enumerate(files, start=1):
        first = path.read_text().partition("\n")[0]
        assert re.match(rf"-- The journal, version {number}[:.]", first), path.name
