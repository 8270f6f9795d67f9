"""A folder of DICOM files as what a model judges at once: instances or series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from appliance.domain.attributes import Attributes
from appliance.domain.states import Scope
from appliance.errors import ConfigurationError, RejectedInput
from appliance.intake.part10 import scan_file
from appliance.manifest.matching import Match


@dataclass(slots=True)
class Unit:
    """The files of an instance or a series."""

    attributes: Attributes
    paths: list[Path] = field(default_factory=list)
    sop_class_uids: set[str] = field(default_factory=set)
    images: int = 0

    def refusal(self, match: Match) -> str | None:
        """Why a model does not want it, or ``None`` when it does."""
        return match.refusal(frozenset(self.sop_class_uids), self.images, self.attributes)


def units_in(folder: Path, scope: Scope, *, max_bytes: int, say: Callable[[str], None]) -> list[Unit]:
    """Return all units below a folder, in the order of their first files' paths.

    Parameters
    ----------
    max_bytes
        Larger files are left out.
    say
        Called with one line about each file that is left out.

    Raises
    ------
    ConfigurationError
        There is no such folder.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder {folder}")
    units: dict[tuple[str, ...], Unit] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            scanned = scan_file(path, max_bytes=max_bytes)
        except RejectedInput as error:
            say(f"left out {path.name}: {error}")
            continue
        key: tuple[str, ...] = (scanned.study_instance_uid, scanned.series_instance_uid)
        if scope is Scope.INSTANCE:
            key += (scanned.sop_instance_uid,)
        unit = units.setdefault(key, Unit(scanned.attributes))
        unit.paths.append(path)
        unit.sop_class_uids.add(scanned.sop_class_uid)
        unit.images += scanned.frames
    return list(units.values())
