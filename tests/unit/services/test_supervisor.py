"""The supervisor on a clock of its own, with children that end as the test says; then once with real ones."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from appliance.config.settings import Settings
from appliance.services import supervisor as supervisor_module
from appliance.services.role import SUPERVISED
from appliance.services.supervisor import Supervisor, role_names
from tests.support.waiting import wait_for

TOLERANCE_S = 0.25
"""The supervisor looks every tenth of a second; a clock that is a sum of tenths is a little off."""


class Clock:
    """Stands where ``time`` and the stop event do: waiting is what makes the time go on."""

    def __init__(self, end: float) -> None:
        self.now, self._end, self._set = 1000.0, 1000.0 + end, False

    def monotonic(self) -> float:
        return self.now

    def wait(self, timeout_s: float) -> bool:
        self.now += timeout_s
        return self.is_set()

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set or self.now >= self._end


class Bench:
    """A supervisor whose roles live as long as ``lives`` says, then end with ``codes``.

    A role that is named in neither lives for ever; one in ``refused`` cannot be started so many times. The last
    entry of a list goes on for all later lives.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, workers: int = 1) -> None:
        self.lives: dict[str, list[float]] = {}
        self.codes: dict[str, list[int]] = {}
        self.starts: dict[str, list[float]] = {}
        self.ended: list[str] = []
        self.refused: dict[str, int] = {}
        self.environments: list[dict[str, str]] = []
        self.clock = Clock(0)
        self._patch = monkeypatch
        monkeypatch.setattr(supervisor_module, "subprocess", self)
        monkeypatch.setattr(supervisor_module.signal, "signal", lambda *_: None)
        settings = Settings.model_validate({"worker": {"count": workers}})
        self.supervisor = Supervisor(settings, Path("/etc/appliance.yaml"), Path("/var/lib/appliance"))

    TimeoutExpired = subprocess.TimeoutExpired

    def Popen(self, command: list[str], **options: Any) -> Life:  # noqa: N802 - the name of what it stands for
        name = command[4]
        if self.refused.get(name):
            self.refused[name] -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.environments.append(options["env"])
        starts = self.starts.setdefault(name, [])
        starts.append(self.clock.now)
        number = len(starts) - 1
        lives, codes = self.lives.get(name, [float("inf")]), self.codes.get(name, [1])
        return Life(self, name, lives[min(number, len(lives) - 1)], codes[min(number, len(codes) - 1)])

    def run(self, seconds: float) -> int:
        self.clock = Clock(seconds)
        self._patch.setattr(supervisor_module, "time", self.clock)
        self._patch.setattr(self.supervisor, "_stop", self.clock)
        self.supervisor._started_at = self.clock.now
        return self.supervisor.run()

    def pauses(self, name: str) -> list[float]:
        """How long the role was down between its lives."""
        starts, lives = self.starts[name], self.lives[name]
        return [
            start - before - lives[min(number, len(lives) - 1)]
            for number, (before, start) in enumerate(pairwise(starts))
        ]


class Life:
    """A child process, from its start to its end."""

    def __init__(self, bench: Bench, name: str, seconds: float, code: int) -> None:
        self._bench, self._name, self._code = bench, name, code
        self._ends_at = bench.clock.now + seconds

    def poll(self) -> int | None:
        return self._code if self._bench.clock.now >= self._ends_at else None

    def terminate(self) -> None:
        self._bench.ended.append(self._name)

    def wait(self, timeout: float | None = None) -> int:
        return 0


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_one_process_for_each_role() -> None:
    settings = Settings.model_validate({"worker": {"count": 2}})
    assert role_names(settings) == ["receiver", "sender", "console", "worker-0", "worker-1"]


def test_roles_get_the_settings_the_state_and_who_watches_them(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, workers=2)
    assert bench.run(1) == 0
    assert list(bench.starts) == ["receiver", "sender", "console", "worker-0", "worker-1"]
    assert bench.supervisor._children[0].command == [
        sys.executable, "-m", "appliance", "role", "receiver", "-c", "/etc/appliance.yaml",
        "--state-dir", "/var/lib/appliance",
    ]  # fmt: skip
    assert all(int(environment[SUPERVISED]) > 0 for environment in bench.environments)


def test_roles_that_live_are_left_alone_and_ended_at_the_end(bench: Bench) -> None:
    assert bench.run(3600) == 0
    assert {name: len(starts) for name, starts in bench.starts.items()} == dict.fromkeys(bench.starts, 1)
    assert sorted(bench.ended) == ["console", "receiver", "sender", "worker-0"]


def test_the_pause_grows_and_stays_below_half_a_minute(bench: Bench) -> None:
    bench.lives["sender"] = [0.5]
    bench.run(300)
    expected = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30, 30]
    assert bench.pauses("sender")[: len(expected)] == pytest.approx(expected, abs=TOLERANCE_S)
    assert len(bench.starts["receiver"]) == 1


def test_reception_is_never_given_up(bench: Bench) -> None:
    bench.lives["receiver"] = [0.1]
    assert bench.run(86400) == 0
    assert len(bench.starts["receiver"]) > 86400 / 31
    assert bench.clock.now - bench.starts["receiver"][-1] < 31


def test_a_long_life_makes_the_pause_short_again(bench: Bench) -> None:
    bench.lives["worker-0"] = [0.5, 0.5, 0.5, 0.5, 3600, 0.5, 1e9]
    bench.run(7200)
    assert bench.pauses("worker-0") == pytest.approx([0.2, 0.4, 0.8, 1.6, 0.2, 0.4], abs=TOLERANCE_S)


def test_a_wrong_configuration_at_the_start_ends_all(bench: Bench) -> None:
    """Whoever started it sees why: the role has said it, and the exit code is the role's."""
    bench.lives["receiver"], bench.codes["receiver"] = [0.5], [78]
    assert bench.run(3600) == 78
    assert bench.clock.now < 1002
    assert sorted(bench.ended) == ["console", "sender", "worker-0"]


def test_a_wrong_configuration_later_ends_only_its_role(bench: Bench) -> None:
    """A port that something else took while the role was down, for example: it may become free again."""
    bench.lives["console"], bench.codes["console"] = [3600, 0.5, 1e9], [-9, 78]
    assert bench.run(7200) == 0
    assert len(bench.starts["console"]) == 3
    assert len(bench.starts["receiver"]) == 1


@pytest.mark.parametrize(
    ("code", "words"), [(70, "ended with code 70"), (-9, "ended with signal SIGKILL"), (-40, "ended with signal 40")]
)
def test_the_log_says_how_a_role_ended(bench: Bench, caplog: pytest.LogCaptureFixture, code: int, words: str) -> None:
    """Whatever the signal was: real-time signals have no name in Python."""
    bench.lives["sender"], bench.codes["sender"] = [0.5, 1e9], [code]
    assert bench.run(60) == 0
    assert f"sender {words}; it starts again in 0.2 s" in caplog.text
    assert len(bench.starts["sender"]) == 2


def test_a_role_that_cannot_be_started_now_is_started_later(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The machine is out of processes or memory for a moment: the roles that run are not ended for that."""
    bench.refused["worker-0"] = 3
    assert bench.run(3600) == 0
    assert {name: len(starts) for name, starts in bench.starts.items()} == dict.fromkeys(role_names(Settings()), 1)
    assert bench.starts["worker-0"][0] - 1000 == pytest.approx(0.2 + 0.4 + 0.8, abs=3 * TOLERANCE_S)
    assert "worker-0 cannot be started (Resource temporarily unavailable); it starts again in 0.8 s" in caplog.text


SCRIPT = """
import sys
from pathlib import Path
from appliance.config.settings import Settings
from appliance.services import supervisor

made = supervisor.Supervisor(Settings(), None, Path(sys.argv[1]))
for child in made._children:
    child.command = [sys.executable, "-S", "-c", "import time; time.sleep(600)", child.name]
sys.exit(made.run())
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[psutil.Popen]:
    """A real supervisor, whose roles are processes that only live."""
    process = psutil.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stderr=subprocess.PIPE)
    wait_for(lambda: len(process.children()) == 4, what="the roles to be started")
    yield process
    children = process.children(recursive=True) if process.is_running() and process.returncode is None else []
    for child in [*children, process]:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            pass
    process.wait(10)
    process.stderr.close()


def test_a_killed_process_is_replaced(running: psutil.Popen) -> None:
    before = {child.pid for child in running.children()}
    running.children()[0].kill()
    wait_for(
        lambda: len(now := {child.pid for child in running.children()}) == 4 and now != before, what="a new process"
    )
    assert len(before & {child.pid for child in running.children()}) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_in_good_order(running: psutil.Popen, number: signal.Signals) -> None:
    roles = running.children()
    running.send_signal(number)
    assert running.wait(20) == 0
    assert not [role for role in roles if role.is_running()]
