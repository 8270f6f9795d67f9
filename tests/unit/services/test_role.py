"""A role in a process of its own: its lock, its ready file, its signals, and the order of its parts."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.errors import ConfigurationError
from appliance.services.role import EXIT_FATAL, EXIT_OK, SUPERVISED, prepare_state, state_of
from tests.support.waiting import wait_for

ROLE = """
import sys
from pathlib import Path
from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.errors import ApplianceError
from appliance.services.role import run_role

name, root, what = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
layout = StateLayout(root)


def say(text):
    print(text, flush=True)


class Part:
    def __init__(self, name, on_start=lambda: None, on_stop=lambda: None):
        self.name, self.on_start, self.on_stop = name, on_start, on_stop

    def start(self):
        say(f"{self.name} starts")
        self.on_start()

    def stop(self):
        say(f"{self.name} stops")
        self.on_stop()


def port_is_taken():
    raise ApplianceError("the port is taken")


def fails_to_stop():
    raise RuntimeError("cannot stop")


def build(lifecycle):
    say("ready file: " + str((layout.run / f"{name}.ready").exists()))
    first = Part("first")
    second = Part("second", on_stop=fails_to_stop if what == "second cannot stop" else lambda: None)
    if what == "second fails":
        second.on_start = lifecycle.fail
    if what == "second cannot start":
        second.on_start = port_is_taken
    if what == "says when it is ready":
        second.on_start = lambda: (sys.stdin.readline(), lifecycle.ready())
    return [first, second]


try:
    code = run_role(name, Settings(), layout, build, ready_when_started=what != "says when it is ready")
except ApplianceError as error:
    say(str(error))
    code = error.exit_code
sys.exit(code)
"""

Start = Callable[..., "Role"]


class Role:
    """A role in a process, and what it says."""

    def __init__(self, layout: StateLayout, name: str, what: str, environment: dict[str, str] | None) -> None:
        self.ready_file = layout.run / f"{name}.ready"
        self.process = subprocess.Popen(
            [sys.executable, "-c", ROLE, name, str(layout.root), what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
        )

    def wait_until_ready(self) -> None:
        """Wait for the file that the console looks for."""
        wait_for(lambda: self.ready_file.exists() and self.alive(), what="the role to be ready")

    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def end(self, number: signal.Signals = signal.SIGTERM) -> list[str]:
        """Send a signal, wait, and return what it said."""
        self.process.send_signal(number)
        return self.output()

    def output(self) -> list[str]:
        """Wait for its end, and return what it said."""
        out, self.log = self.process.communicate(timeout=30)
        return out.splitlines()


@pytest.fixture
def layout(tmp_path: Path) -> StateLayout:
    return prepare_state(Settings(), tmp_path / "state")


@pytest.fixture
def start(layout: StateLayout) -> Iterator[Start]:
    roles: list[Role] = []

    def make(what: str = "", name: str = "receiver", environment: dict[str, str] | None = None) -> Role:
        roles.append(Role(layout, name, what, environment))
        return roles[-1]

    yield make
    for role in roles:
        role.process.kill()
        role.process.communicate()


STARTED = ["ready file: False", "first starts", "second starts"]
STOPPED = ["second stops", "first stops"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_parts_start_in_order_and_stop_in_reverse(start: Start, number: signal.Signals) -> None:
    role = start()
    role.wait_until_ready()
    assert role.end(number) == STARTED + STOPPED
    assert role.process.returncode == EXIT_OK
    assert not role.ready_file.exists()
    assert [line.partition(" ")[2].partition(" ")[2] for line in role.log.splitlines()] == [
        "INFO receiver appliance.services.role: ready",
        "INFO receiver appliance.services.role: stopped",
    ]


def test_a_role_that_says_itself_when_it_is_ready(start: Start) -> None:
    """A worker is, when its models are warm."""
    role = start("says when it is ready")
    assert role.process.stdout is not None and role.process.stdin is not None
    while role.process.stdout.readline() != "second starts\n":
        pass
    assert not role.ready_file.exists()
    role.process.stdin.write("\n")
    role.process.stdin.flush()
    role.wait_until_ready()


def test_a_part_that_cannot_go_on_ends_the_role_with_a_code_of_its_own(start: Start) -> None:
    role = start("second fails")
    assert role.output() == STARTED + STOPPED
    assert role.process.returncode == EXIT_FATAL
    assert not role.ready_file.exists()


def test_a_part_that_cannot_start_leaves_nothing_running(start: Start) -> None:
    role = start("second cannot start")
    assert role.output() == [*STARTED, "first stops", "the port is taken"]
    assert role.process.returncode == 1
    assert not role.ready_file.exists()


def test_a_part_that_cannot_stop_keeps_no_other_from_stopping(start: Start) -> None:
    role = start("second cannot stop")
    role.wait_until_ready()
    assert role.end() == STARTED + STOPPED
    assert role.process.returncode == EXIT_FATAL
    assert "cannot stop" in role.log


def test_a_second_role_of_the_same_name_is_refused(start: Start) -> None:
    role = start()
    role.wait_until_ready()
    second = start()
    assert second.output() == [
        "a receiver runs already on this state folder. Stop it first, or give this one another --state-dir"
    ]
    assert second.process.returncode == ConfigurationError.exit_code
    assert role.alive() and role.ready_file.exists()


def test_roles_of_other_names_run_beside_it(start: Start) -> None:
    roles = [start(name=name) for name in ("worker-0", "worker-1")]
    for role in roles:
        role.wait_until_ready()
    assert [role.end() for role in roles] == [STARTED + STOPPED] * 2


def test_who_was_killed_keeps_neither_the_lock_nor_the_look_of_being_ready(start: Start) -> None:
    killed = start()
    killed.wait_until_ready()
    killed.end(signal.SIGKILL)
    assert killed.ready_file.exists()
    role = start("says when it is ready")
    assert role.process.stdout is not None
    assert role.process.stdout.readline() == "ready file: False\n"


def test_the_console_that_looks_is_no_second_role(start: Start, layout: StateLayout) -> None:
    """It takes the lock for a moment to see whether the role runs."""
    path = layout.run / "receiver.lock"
    path.touch()
    with path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        role = start()
        # It has come to the lock when it has opened the file.
        wait_for(lambda: str(path) in _open_files(role.process.pid), what="the role to come to its lock")
        fcntl.flock(lock, fcntl.LOCK_UN)
    role.wait_until_ready()


def test_a_role_whose_supervisor_is_gone_ends_by_itself(start: Start) -> None:
    """It died between starting the role and the role asking for its signal."""
    role = start(environment={SUPERVISED: "1"})
    assert role.output() == ["ready file: False"]
    assert role.process.returncode == EXIT_OK


def test_the_state_lies_where_the_option_then_the_setting_then_the_user_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(state_dir=tmp_path / "setting")
    assert state_of(settings, tmp_path / "option").root == tmp_path / "option"
    assert state_of(settings, None).root == tmp_path / "setting"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_of(Settings(), None).root == tmp_path / "dicom-inference-appliance"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_of(Settings(), None).root == tmp_path / ".local" / "state" / "dicom-inference-appliance"


def test_a_relative_state_folder_is_one_place_for_all_roles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert state_of(Settings(), Path("state")).root == tmp_path / "state"


def test_all_folders_of_the_state_are_made(layout: StateLayout) -> None:
    assert all(folder.is_dir() for folder in layout.folders)
    assert list(layout.run.iterdir()) == [layout.metrics]


def test_a_state_folder_that_cannot_be_used_is_named_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError) as caught:
        prepare_state(Settings(), tmp_path / "file" / "state")
    assert str(caught.value) == (
        f"the state folder {tmp_path}/file/state cannot be used: found File exists, "
        "expected a folder that this user may write. Correct its owner, or name another folder"
    )


def _open_files(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(entry.readlink()))
        except FileNotFoundError:
            pass  # closed meanwhile
    return found
