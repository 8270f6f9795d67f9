"""The log: one line per event, on standard error, with the role, and without what libraries say about patients."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from appliance.observability.logs import set_up_logs

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, loggers = root.handlers[:], [root, *map(logging.getLogger, ("appliance", "pynetdicom", "pydicom"))]
    levels = [logger.level for logger in loggers]
    yield
    root.handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_a_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    set_up_logs("receiver", "INFO")
    logging.getLogger("appliance.intake.store").info("stored %d", 3)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"{TIME}INFO receiver appliance.intake.store: stored 3\n", err)


def test_systemd_puts_the_time_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    set_up_logs("worker-0", "INFO")
    logging.getLogger("appliance.pipeline").warning("slow")
    assert capsys.readouterr().err == "WARNING worker-0 appliance.pipeline: slow\n"


@pytest.mark.parametrize(
    ("level", "shown"),
    [("DEBUG", ["d", "i", "w", "e"]), ("INFO", ["i", "w", "e"]), ("WARNING", ["w", "e"]), ("ERROR", ["e"])],
)
def test_the_level_is_that_of_the_settings(level: str, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("sender", level)
    log = logging.getLogger("appliance.delivery")
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)(name[0])
    assert [line[-1] for line in capsys.readouterr().err.splitlines()] == shown


def test_libraries_do_not_speak_about_patients(capsys: pytest.CaptureFixture[str]) -> None:
    """Even at DEBUG: pynetdicom prints the identifiers of data sets, pydicom warns with the values of elements."""
    set_up_logs("receiver", "DEBUG")
    logging.getLogger("pynetdicom.acse").error("Association of DOE^JOHN")
    logging.getLogger("pynetdicom.service-c").info("Patient ID 4711")
    logging.getLogger("pydicom.pixels.decoders.base").error("a traceback for each image that cannot be decoded")
    logging.getLogger("pydicom").warning("Invalid value for VR PN: DOE^JOHN")
    logging.getLogger("somebody.else").info("x")
    assert capsys.readouterr().err == ""


def test_setting_up_again_writes_no_line_twice(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("receiver", "INFO")
    set_up_logs("receiver", "INFO")
    logging.getLogger("appliance").info("once")
    assert capsys.readouterr().err.count("once") == 1
