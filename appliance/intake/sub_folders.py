"""Sub-folders of the drop folder: what came in each, when it has come completely, and when the rest is removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from appliance.intake.quiet_files import View, remove_emptied
from appliance.intake.shares import SeriesShares
from appliance.intake.store import Acceptance

_UNUSED_LINGERS_S: Final = 60.0
"""An empty sub-folder that nothing was taken from stays this long: somebody may be about to copy into it."""


@dataclass(slots=True)
class _SubFolder:
    """What came in one sub-folder since its last end mark; times are monotonic, in seconds."""

    empty_since: float | None = None
    taken_from: bool = False
    shares: SeriesShares = field(default_factory=SeriesShares)


class SubFolders:
    """The sub-folders right below ``root``.

    Parameters
    ----------
    settle
        Called with the series (ids of the journal) that a sub-folder has brought completely.
    """

    def __init__(self, root: Path, quiet_s: float, settle: Callable[[Sequence[int]], None]) -> None:
        self._root = root
        self._quiet_s = quiet_s
        self._settle = settle
        self._entries: dict[str, _SubFolder] = {}

    def taken(self, path: Path, acceptance: Acceptance | None) -> None:
        """Note that the file at ``path`` was taken out; ``acceptance`` is ``None`` when it was refused."""
        parts = path.relative_to(self._root).parts
        if len(parts) > 1:
            entry = self._entries.setdefault(parts[0], _SubFolder())
            entry.taken_from = True
            if acceptance is not None:
                entry.shares.add(acceptance)

    def see_to(self, view: View, now: float) -> float | None:
        """Give end marks and remove what is left; return after how many seconds to look again, if that matters.

        A file is only taken when it has been quiet for a while, so a sub-folder that is empty after that has come
        completely: whatever was still being copied into it would be there.
        """
        wait_s = None
        for name in self._entries.keys() - view.folders:
            self._complete(self._entries.pop(name))
        for name in view.folders:
            entry = self._entries.setdefault(name, _SubFolder())
            if name in view.occupied:
                entry.empty_since = None
                continue
            self._complete(entry)
            if entry.empty_since is None:
                entry.empty_since = now
            left_s = (self._quiet_s if entry.taken_from else _UNUSED_LINGERS_S) - (now - entry.empty_since)
            if left_s > 0:
                wait_s = left_s if wait_s is None else min(wait_s, left_s)
            else:
                remove_emptied(self._root / name)
                del self._entries[name]
        return wait_s

    def _complete(self, entry: _SubFolder) -> None:
        series_ids = entry.shares.whole()
        entry.shares = SeriesShares()
        if series_ids:
            self._settle(series_ids)
