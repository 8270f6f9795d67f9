"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data_dir() -> Path:
    """The folder of real images; it is no part of the repository."""
    folder = Path(os.environ.get("APPLIANCE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images: there is no folder {folder.name} beside the checkout (APPLIANCE_SHARED_DATA)")
    return folder
