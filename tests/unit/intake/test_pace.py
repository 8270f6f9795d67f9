"""A message may be slow, but not for long."""

from __future__ import annotations

import pytest

from appliance.intake import pace as pace_module
from appliance.intake.pace import Pace


@pytest.mark.parametrize(
    ("elapsed_s", "received", "slow"),
    [(59.0, 0, False), (61.0, 61_000, False), (61.0, 60_000, True), (3600.0, 3_600_000, False), (3600.0, 60_000, True)],
)
def test_on_average_since_the_first_byte(
    monkeypatch: pytest.MonkeyPatch, elapsed_s: float, received: int, slow: bool
) -> None:
    now = [100.0]
    monkeypatch.setattr(pace_module.time, "monotonic", lambda: now[0])
    progress = Pace(1000, grace_s=60.0).start()
    progress.began = now[0]
    now[0] += elapsed_s
    assert progress.too_slow(received) is slow


def test_never_when_it_is_switched_off() -> None:
    progress = Pace(0, grace_s=0.0).start()
    progress.began -= 1e6
    assert not progress.too_slow(0)
