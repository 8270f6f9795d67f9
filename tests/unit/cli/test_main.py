"""Errors of the disk end in one line too."""

from __future__ import annotations

import errno
from typing import NoReturn

import pytest

from appliance.cli import operator
from appliance.cli.main import main


def test_a_folder_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*args: object, **options: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", "/srv/state/journal")

    monkeypatch.setattr(operator, "status", refused)
    assert main(["status"]) == 74
    assert capsys.readouterr().err == (
        "appliance: /srv/state/journal: Permission denied. Check its owner, and the disk\n"
    )
