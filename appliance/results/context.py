"""What a result object must know beyond the result itself: who wrote it, when, and as which revision."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from appliance.domain.languages import Language
from appliance.domain.states import Scope


@dataclass(frozen=True, slots=True)
class PriorReport:
    """The SR of an earlier revision of the same job, in the same study, that a new SR replaces."""

    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class ResultContext:
    """The circumstances of one job. The same context, sources and result give byte-identical objects.

    Attributes
    ----------
    model_key
        ``name/version`` of the model package.
    revision
        1 for the first result of these images; higher when late images made the model run again.
    created_at
        Content date and time. Taken from the job, not from the clock, so that a repeat is identical. Without a
        time zone it is the local time of the site; with one it is converted to the zone that the source images
        name in Timezone Offset From UTC (0008,0201), when they name one.
    device_serial
        Device Serial Number (0018,1000) of this appliance.
    scope
        Whether one image was judged, or the series as a whole; part of what the UIDs derive from.
    shadow
        Whether the result is that of a version that only runs beside the one that serves. Its objects have UIDs of
        their own: the same version may have to judge the same images for real.
    language
        Of the draft report.
    predecessors
        The reports that this one replaces (PS3.3 section C.17.2, Predecessor Documents Sequence).
    """

    model_key: str
    revision: int
    created_at: datetime
    device_serial: str
    scope: Scope = Scope.SERIES
    shadow: bool = False
    language: Language = "en"
    predecessors: tuple[PriorReport, ...] = ()

    @property
    def model_name(self) -> str:
        """Name of the model package without its version."""
        return self.model_key.partition("/")[0]
