"""What is around: rights, room, clock, leases, arrivals, cache."""

from __future__ import annotations

import json
import os
import pwd
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.doctor.finding import Finding, Verdict, well
from appliance.journal.journal import Journal
from appliance.spool.spool import Spool

_PATIENCE_S = 60.0
"""What takes longer is stuck."""


def check_site(journal: Journal, spool: Spool, settings: Settings, layout: StateLayout) -> Iterator[Finding]:
    """Look at what is around journal and spool."""
    yield _rights(layout)
    yield _room(spool, settings)
    yield _clock(journal)
    yield _leases(journal, settings)
    yield _arrivals(spool)
    yield _deletions(journal)
    yield _cache(layout)


def _rights(layout: StateLayout) -> Finding:
    owner = layout.root.stat().st_uid
    paths = [*layout.folders, *layout.spool.iterdir(), *layout.journal.parent.iterdir()]
    foreign = [path for path in paths if path.exists() and path.stat().st_uid != owner]
    closed = [path for path in paths if path.exists() and not os.access(path, os.R_OK | os.W_OK)]
    if not foreign and not closed:
        return well("rights", f"all belongs to {_name(owner)}")
    path = (foreign or closed)[0]
    return Finding(
        Verdict.WRONG,
        "rights",
        f"{path} belongs to {_name(path.stat().st_uid)}" if foreign else f"{path} cannot be written by this user",
        f"all belongs to {_name(owner)}, as {layout.root} does",
        f"Somebody ran a command as another user: chown -R {_name(owner)} {layout.root}"
        if foreign
        else f"Run this as {_name(owner)}, or mend the mode: chmod -R u+rwX {layout.root}",
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _room(spool: Spool, settings: Settings) -> Finding:
    free, mark, target = spool.free_bytes(), settings.storage.min_free_bytes, settings.retention_target_free_bytes
    found = f"{free >> 20} MiB free"
    if free < mark:
        return Finding(
            Verdict.WRONG,
            "disk",
            found,
            f"{mark >> 20} MiB (storage.min_free_bytes)",
            "Images are refused (0xA700) until there is room: free space. The metric appliance_retention_held_studies "
            "says what keeps old studies here",
        )
    if free < target:
        return Finding(
            Verdict.NOTE,
            "disk",
            found,
            f"{target >> 20} MiB (retention.target_free_bytes)",
            "The oldest studies are being deleted; if it stays so, nothing more may be: free space",
        )
    return well("disk", found)


def _clock(journal: Journal) -> Finding:
    newest, now = journal.inspection.newest_at(), time.time()
    if newest is None or newest <= now + _PATIENCE_S:
        return well("clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)))
    return Finding(
        Verdict.WRONG,
        "clock",
        f"the newest row is {(newest - now) / 60:.0f} min in the future",
        "a clock that goes forward",
        "Set the clock (timedatectl, chronyc tracking). Until then retries and series wait for that time",
    )


def _leases(journal: Journal, settings: Settings) -> Finding:
    stuck = journal.inspection.expired_leases(time.time() - settings.worker.lease_s - _PATIENCE_S)
    if not stuck:
        return well("running jobs", "none is stuck")
    return Finding(
        Verdict.NOTE,
        "running jobs",
        f"{len(stuck)} whose worker gave no sign for long, such as job {stuck[0]}",
        "a worker that takes them back",
        "Start the workers: whichever comes first takes them back",
    )


def _arrivals(spool: Spool) -> Finding:
    old = [one for one in spool.incoming.left() if one.received_at < time.time() - _PATIENCE_S]
    if not old:
        return well("arrivals", "none waits")
    return Finding(
        Verdict.NOTE,
        "arrivals",
        f"{len(old)} file(s) in spool/incoming that were promised more than a minute ago",
        "none",
        "Start the receiver, or restart it: it registers them",
    )


def _deletions(journal: Journal) -> Finding:
    waiting = [stone for stone in journal.tombstones.waiting() if stone.deleted_at < time.time() - _PATIENCE_S]
    if not waiting:
        return well("deletions", "none is unfinished")
    return Finding(
        Verdict.NOTE,
        "deletions",
        f"{len(waiting)} whose files may be there still",
        "none",
        "Start the console: it removes them",
    )


def _cache(layout: StateLayout) -> Finding:
    entries = [path for path in layout.cache.glob("*/*") if path.is_dir() and not path.name.startswith(".")]
    damaged = [entry for entry in entries if not _is_whole(entry)]
    if not damaged:
        return well("cache", f"{len(entries)} built network(s)")
    return Finding(
        Verdict.NOTE,
        "cache",
        f"{len(damaged)} damaged, such as {damaged[0].relative_to(layout.root)}",
        "the size that was written",
        "Nothing: it is built anew when it is needed",
    )


def _is_whole(entry: Path) -> bool:
    """Whether an entry of ``DerivedFiles`` has a file of the size that it had; its bytes are summed before use."""
    for path in entry.glob("*.json"):
        try:
            size = json.loads(path.read_text(encoding="utf-8"))["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return any(other.stat().st_size == size for other in entry.iterdir())
    return False
