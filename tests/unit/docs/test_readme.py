"""The top-level README: every command and exit code is in it, and every file that it names is there."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from appliance import errors
from appliance.cli.main import _parser

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()


def commands(parser: argparse.ArgumentParser, prefix: str = "appliance") -> Iterator[str]:
    """The full name of each command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                nested = list(commands(below, f"{prefix} {name}"))
                yield from nested or [f"{prefix} {name}"]


def test_every_command_is_in_the_table_and_no_other() -> None:
    rows = re.findall(r"^\| `(appliance [^`]+)` \|", README, re.MULTILINE)
    described = {re.match(r"[a-z]+(?: [a-z]+(?:-[a-z]+)*)+", row).group() for row in rows}  # type: ignore[union-attr]
    assert described == set(commands(_parser()))


def test_every_exit_code_is_named() -> None:
    (paragraph,) = re.findall(r"Exit codes: ([^.]+)\.", README)
    named = {int(code) for code in re.findall(r"\b\d+\b", paragraph)}
    raised = {
        value.exit_code
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.ApplianceError)
    }
    assert raised | {0, 2, 70, 130} == named


def test_every_link_leads_somewhere() -> None:
    for readme in ROOT.glob("[a-z]*/README.md"):
        assert f"]({readme.parent.name}/README.md)" in README, f"{readme.parent.name}/ is not mentioned"
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_two_commands_are_there() -> None:
    for script in re.findall(r"^(scripts/\w+)", README, re.MULTILINE):
        assert (ROOT / script).stat().st_mode & 0o111, f"{script} cannot be executed"
