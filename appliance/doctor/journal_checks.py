"""The journal by itself: damage, references, counts."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.doctor.finding import Finding, Verdict, well
from appliance.journal.inspection import Inspection


def check_journal(inspection: Inspection, *, repair: bool) -> Iterator[Finding]:
    """Look at the journal alone; ``repair`` only while no role runs. Of a damaged one nothing more is asked."""
    schema, newest = inspection.schema()
    yield well("journal schema", f"version {schema} of {newest}")
    damage = _damage(inspection)
    yield damage
    if damage.verdict is Verdict.WRONG:
        return
    yield _references(inspection)
    yield _counts(inspection, repair)
    yield _unused_pages(inspection, repair)


def _damage(inspection: Inspection) -> Finding:
    damage = inspection.damage()
    if damage is None:
        return well("journal file", "sound")
    return Finding(
        Verdict.WRONG,
        "journal file",
        damage,
        "a sound SQLite file",
        "Stop the appliance, move the state folder away, look at the disk (dmesg, smartctl), then restore the newest "
        "backup: appliance restore. Images in the old spool/instances that the backup lacks can be copied into the "
        "drop folder",
    )


def _references(inspection: Inspection) -> Finding:
    dangling = inspection.dangling()
    if not dangling:
        return well("journal references", "all lead somewhere")
    return Finding(
        Verdict.WRONG,
        "journal references",
        f"rows that refer to missing ones: {', '.join(dangling)}",
        "none",
        "No appliance writes such rows: somebody changed the journal by hand, or it is damaged. Restore the newest "
        "backup: appliance restore",
    )


def _counts(inspection: Inspection, repair: bool) -> Finding:
    wrong = inspection.miscounts()
    if not wrong:
        return well("journal counts", "those of the rows")
    found = ", ".join(f"{one.machine} {one.state}: {one.counted} counted, {one.rows} there" for one in wrong[:3])
    if repair:
        inspection.recount()
        return Finding(Verdict.MENDED, "journal counts", found, "the same", "Counted anew")
    return Finding(
        Verdict.WRONG,
        "journal counts",
        found,
        "the same",
        "Metrics and status show wrong numbers; nothing else is wrong. Stop the appliance, then: appliance doctor "
        "--repair",
    )


def _unused_pages(inspection: Inspection, repair: bool) -> Finding:
    if inspection.can_shrink():
        return well("journal size", "it shrinks by itself")
    if repair:
        inspection.rewrite()
        return Finding(Verdict.MENDED, "journal size", "it could not shrink", "it shrinks by itself", "Written anew")
    return Finding(
        Verdict.NOTE,
        "journal size",
        "it grows no more than is needed, but never shrinks",
        "made by version 8 of the schema, or later",
        "Not urgent. When the appliance stands still: appliance doctor --repair writes it anew",
    )
