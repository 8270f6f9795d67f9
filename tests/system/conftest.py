"""A PACS, a scanner and images for tests of the whole appliance."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = ("mr-brain-extract", "cxr-lung")
"""Those that serve from the start; others serve once somebody activates them."""


@pytest.fixture(scope="session")
def weights() -> Path:
    """The weights folder that ``scripts/test`` has filled; fetched here when pytest is run by hand."""
    state = REPOSITORY / ".cache" / "state"
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "models", "fetch", *MODELS, "--state-dir", str(state)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"the weights of the models cannot be had: {done.stderr.strip()}")
    return state / "weights"


@pytest.fixture
def daemons(tmp_path: Path, weights: Path) -> Iterator[list[Daemon]]:
    """A list for the daemons that a test makes; whatever is still running afterwards is stopped."""
    made: list[Daemon] = []
    yield made
    for daemon in made:
        daemon.stop()
