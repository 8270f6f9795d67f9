"""The files that roles keep their numbers in, as ``prometheus_client`` writes them: ``<type>_<role>.db``.

They are memory maps and never synced, so a power loss can leave anything in them. The library reads them without
many checks: one bad file would hide the numbers of all roles, or fail the role that goes on writing it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

_log = logging.getLogger(__name__)


class RoleFiles(Collector):
    """The sum over all roles; a file that cannot be read is left out until its role starts anew.

    Parameters
    ----------
    is_running
        Whether a role runs. The gauges of one that does not are left out: they tell what is, and a worker that was
        killed, or taken from the settings, has no model ready. Its counters stay.
    """

    def __init__(self, folder: Path, is_running: Callable[[str], bool]) -> None:
        self._folder = folder
        self._is_running = is_running

    def collect(self) -> Iterable[Metric]:
        """See ``prometheus_client``."""
        files = [str(file) for file in self._folder.glob("*.db") if self._is_of_now(file) and _is_readable(file)]
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)
        return merged

    def _is_of_now(self, file: Path) -> bool:
        kind, _, rest = file.stem.partition("_")
        return kind != "gauge" or self._is_running(rest.partition("_")[2])  # gauge_<how roles are joined>_<role>.db


def prepare_role_files(role: str, folder: Path) -> None:
    """Make a role's files ready to be written on by its next life.

    Gauges are removed: they tell what is now, not what was when the last life ended. So is what cannot be read, with
    a warning: a counter that starts again is normal to Prometheus, a role that does not start would lose images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob(f"*_{role}.db"):
        if file.name.startswith("gauge_"):
            file.unlink()
        elif not _is_readable(file):
            _log.warning("the numbers in %s cannot be read and start anew", file.name)
            file.unlink()


def _is_readable(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            # How many of its bytes are used. The library believes this number.
            used = int.from_bytes(stream.read(4), sys.byteorder, signed=True)
            if not 0 <= used <= file.stat().st_size:
                return False
        MultiProcessCollector.merge([str(file)])
    except Exception:  # noqa: BLE001 - whatever bad bytes raise in the library's reader, or a file that is just going
        return False
    return True
