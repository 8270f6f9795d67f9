"""A PACS that is up and down for days, in all ways, on real sockets; only the time is made up."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.config.settings import Retry
from tests.support.bad_pacs import (
    ACCEPTING,
    ANSWERING,
    CLOSE,
    CONNECTED,
    NOISE,
    REQUEST,
    RESET,
    STORED,
    BadPacs,
    Fault,
)
from tests.support.fast_clock import FastClock
from tests.support.outbox import Outbox, pacs
from tests.support.waiting import wait_for

START, DAY, HOUR = 1_700_000_000.0, 86400.0, 3600.0
DAYS = 3
STEP_S = 20.0
RETRY = Retry(first_s=2, factor=2, longest_s=300, give_up_after_s=7 * DAY)
FAULTS = [
    Fault(point, manner)
    for point in (CONNECTED, ACCEPTING, REQUEST, STORED, ANSWERING)
    for manner in (CLOSE, RESET, NOISE)
]


_LONG = 19
"""Number of the long spell."""


@dataclass(frozen=True)
class Spell:
    """From ``since`` on it is well, or has this fault."""

    since: float
    fault: Fault | None


def weather(seed: int) -> list[Spell]:
    """Good and bad spells in turns, minutes to hours each, and one bad one of a day; a good one in the end."""
    chance, spells, now = random.Random(seed), [Spell(START, None)], START
    while now < START + DAYS * DAY:
        now += chance.uniform(60, 2 * HOUR)
        fault = chance.choice(FAULTS)
        spells.append(Spell(now, fault))
        is_long = len(spells) == _LONG + 1
        now += DAY if is_long else chance.uniform(30, 3 * HOUR)
        spells.append(Spell(now, None))
    return spells


def test_days_of_a_flapping_pacs(tmp_path: Path) -> None:
    spells = weather(seed=1)
    starts = [spell.since for spell in spells]
    outbox, settings = Outbox(tmp_path), pacs(104)
    uids: list[str] = []
    attempts: list[float] = []

    def leap(now: float) -> None:
        """A study every two hours."""
        if now > START + 2 * HOUR * len(uids) and len(uids) < DAYS * 12:
            uids.extend(outbox.put(str(len(uids)), [settings], kinds=["sr"], created_at=now))
        if now > spells[-1].since + HOUR:
            clock.stopped.set()

    def faults() -> Iterator[Fault | None]:
        """What the weather is at each connection."""
        while True:
            attempts.append(clock.now())
            yield spells[bisect_right(starts, clock.now()) - 1].fault

    clock = FastClock(START, step_s=STEP_S, on_leap=leap)
    with BadPacs(faults()) as peer:
        settings = pacs(peer.port, retry=RETRY)
        outbox.sender(settings, clock=clock)
        wait_for(clock.stopped.is_set, 180, what="the days to pass")
        wait_for(outbox.are_delivered, what="the last commit")
        rows = outbox.rows()
        outbox.close()

        assert len(rows) == len(uids) == DAYS * 12
        assert set(peer.uids()) == set(uids)
        # What was stored and not answered has to be sent again: nobody could know. Nothing else has.
        unanswered = sum(is_stored_unanswered(spells[bisect_right(starts, at) - 1].fault) for at in attempts)
        assert len(peer.received) <= len(uids) + unanswered
    for row in rows:
        # In a good spell at once; else when the longest wait that fits into the good spell behind the bad one is over.
        well_at = next(
            spell.since
            for spell, following in zip(spells, [*spells[1:], None], strict=True)
            if spell.fault is None
            and (following is None or following.since - max(spell.since, row["created_at"]) > 400)
        )
        assert row["finished_at"] <= max(row["created_at"], well_at) + 300 + 5 * STEP_S
    tries = [at for at in attempts if starts[_LONG] + 2 * HOUR < at < starts[_LONG + 1]]
    assert 22 * HOUR / (300 + STEP_S) <= len(tries) <= 22 * HOUR / (0.75 * 300), "it is asked, but not pestered"


def is_stored_unanswered(fault: Fault | None) -> bool:
    return fault is not None and fault.point in (STORED, ANSWERING)
