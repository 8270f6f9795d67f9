"""A journal, and the same file seen with bare SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.journal.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal lies."""
    return tmp_path / "journal" / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """An empty journal."""
    journal = Journal(path)
    yield journal
    journal.close()


@pytest.fixture
def sql(journal: Journal, path: Path) -> Iterator[sqlite3.Connection]:
    """The journal's file, in autocommit mode, with foreign keys on as the appliance has them."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    yield connection
    connection.close()
