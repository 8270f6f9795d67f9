"""``appliance models compare``: how far a shadow agrees with the version that serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from appliance.config.reader import read_settings
from appliance.errors import JournalError
from appliance.journal.journal import Journal
from appliance.services.comparison import Comparison, compare
from appliance.services.role import state_of
from appliance.spool.spool import Spool


def compare_shadow(config: Path | None, state_dir: Path | None, name: str, *, newest: int, as_json: bool) -> int:
    """Print the agreement of a model's shadow, the one that runs or the last one that ran, with what served."""
    layout = state_of(read_settings(config), state_dir)
    if not layout.journal.is_file():
        raise JournalError(
            f"there is no journal in {layout.root}", mend="Start the appliance there first: appliance run"
        )
    journal = Journal(layout.journal)
    try:
        spell = journal.comparisons.spell(name)
        if spell is None:
            raise JournalError(
                f"no version of {name} has run in the shadow of another",
                mend=f"Let one: appliance models activate {name}/VERSION --shadow",
            )
        found = compare(journal, Spool(layout.spool), spell, newest=newest)
    finally:
        journal.close()
    print(json.dumps(found.plain(), indent=2) if as_json else "\n".join(_lines(found)))
    return 0


def _lines(found: Comparison) -> Iterator[str]:
    spell = found.spell
    yield f"{spell.model}: {_day(spell.since)} to {'now' if spell.until is None else _day(spell.until)}"
    yield f"    {'':36}{'succeeded':>10}{'unsuitable':>12}{'failed':>8}"
    for side, version, states in (("active", spell.active, found.active), ("shadow", spell.shadow, found.shadow)):
        title = f"{side} {version.version}, {version.precision}"
        yield f"    {title:36}{states['succeeded']:10}{states['unsuitable']:12}{states['failed']:8}"
    yield f"    judged by both: {found.both}; the shadow still has to judge: {found.waiting}"
    if found.measurements:
        yield f"\n    {'measurement':44}{'n':>6}{'active':>11}{'shadow':>11}{'difference':>12}  95 % within"
    for line in found.measurements:
        limits = "-" if line.limits is None else f"{line.limits[0]:+.4g} … {line.limits[1]:+.4g}"
        yield (
            f"    {f'{line.what} [{line.unit}]':44}{line.images:6}{line.active_mean:11.5g}{line.shadow_mean:11.5g}"
            f"{line.mean_difference:+12.4g}  {limits}; worst {line.worst_difference:+.4g} {_jobs(line.worst_jobs)}"
        )
    if found.segments:
        yield f"\n    {'segment':44}{'n':>6}{'mean Dice':>11}{'least':>11}"
    for segment in found.segments:
        yield (
            f"    {segment.label:44}{segment.images:6}{segment.mean_dice:11.4f}{segment.least_dice:11.4f}"
            f" {_jobs(segment.worst_jobs)}"
        )
    if found.differences:
        yield "\n    not judged by both"
    for difference in found.differences:
        yield f"    {_jobs((difference.active_job, difference.shadow_job))}"
        yield f"        active {difference.active}"
        yield f"        shadow {difference.shadow}"


def _jobs(jobs: tuple[int, int]) -> str:
    return f"(jobs {jobs[0]} and {jobs[1]})"


def _day(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")
