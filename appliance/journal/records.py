"""The rows of the journal as the other layers see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from appliance.domain.attributes import Attributes
from appliance.domain.states import DeliveryState, JobState, ProcedureStepState, Scope, SeriesState, StepMessageState
from appliance.manifest.manifest import Precision


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """An instance whose file is durable, about to be registered.

    ``path`` is relative to the spool; ``sha256`` is of the data set without the file meta information; ``source`` is
    ``dicom`` or ``dropfolder``; times are seconds since 1970; ``announced`` is how many images the series has as this
    one says, 0 where it does not say.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    frames: int
    attributes: Attributes
    path: str
    bytes: int
    sha256: str
    source: str
    received_at: float
    announced: int = 0


@dataclass(frozen=True, slots=True)
class KnownInstance:
    """What the journal has under a SOP Instance UID."""

    instance_id: int
    sha256: str
    path: str


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a model, and the precision that its networks run at."""

    version: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.version} in {self.precision}"


@dataclass(frozen=True, slots=True)
class Activation:
    """Which version of a model serves, which one served before it, and which one runs in its shadow; ``None``: none."""

    model: str
    active: ModelVersion | None = None
    previous: ModelVersion | None = None
    shadow: ModelVersion | None = None


@dataclass(frozen=True, slots=True)
class ActivationEvent:
    """A change of what serves, when it was made (seconds since 1970), and what was so after it."""

    at: float
    event: str
    active: ModelVersion | None
    shadow: ModelVersion | None


@dataclass(frozen=True, slots=True)
class RefusedActivation:
    """A version that was to serve and did not pass, and nobody has decided since what shall."""

    model: str
    version: ModelVersion
    reason: str


@dataclass(frozen=True, slots=True)
class Spell:
    """A time in which one version ran in the shadow of another, in seconds since 1970; ``until`` is ``None``: still."""

    model: str
    active: ModelVersion
    shadow: ModelVersion
    since: float
    until: float | None


@dataclass(frozen=True, slots=True)
class JudgedJob:
    """What became of one version's job: ``result`` is its JSON, ``segmentation`` the path of its SEG in the spool."""

    job_id: int
    state: JobState
    reason: str | None
    message: str | None
    result: str | None
    segmentation: str | None


@dataclass(frozen=True, slots=True)
class Assessment:
    """What one model says: ``refusal`` is the reason of its *no*, ``None`` is *yes* and makes a job.

    ``shadow`` is whether this version only runs beside the one that serves.
    """

    model: str
    model_version: str
    refusal: str | None
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Registration:
    """What became of a registered instance.

    ``reopened``: it came late, and opened the revision; ``awaited``: it was the last one that was expected.
    """

    series_id: int
    instance_id: int
    revision: int
    reopened: bool
    awaited: bool
    jobs: int
    forwarded_to: Sequence[str]


@dataclass(frozen=True, slots=True)
class DueSeries:
    """A series that may be called complete now; ``missing`` is how many images it is short of what was expected."""

    series_id: int
    revision: int
    sign: str
    attributes: Attributes
    image_count: int
    missing: int
    sop_class_uids: frozenset[str]


@dataclass(frozen=True, slots=True)
class ProcedureStep:
    """A Modality Performed Procedure Step; ``changes`` counts the N-SETs that made it what it is."""

    procedure_step_id: int
    state: ProcedureStepState
    changes: int
    data_set: bytes


@dataclass(frozen=True, slots=True)
class StepMessage:
    """An N-CREATE or N-SET (``operation``) to be sent on; ``attempt`` is the number of this one."""

    step_message_id: int
    sop_instance_uid: str
    operation: str
    data_set: bytes
    attempt: int
    created_at: float


@dataclass(frozen=True, slots=True)
class StepMessageView:
    """The messages to the RIS in one state; ``message`` is why the oldest that was tried is not done."""

    state: StepMessageState
    count: int
    oldest_created_at: float
    message: str | None


@dataclass(frozen=True, slots=True)
class QuietSeries:
    """A series that only waits for its stable age; ``image_count`` counts frames."""

    series_id: int
    study_instance_uid: str
    series_instance_uid: str
    image_count: int
    instances: int


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that this worker holds until ``lease_until``.

    ``images`` are the paths of its instances, relative to the spool, each with the SHA-256 of its data set.
    """

    job_id: int
    attempt: int
    scope: Scope
    series_id: int
    instance_id: int | None
    revision: int
    model: str
    model_version: str
    shadow: bool
    first_received_at: float
    last_received_at: float
    created_at: float
    claimed_at: float
    images: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A result object whose file is durable; ``path`` is relative to the spool."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """One object on its way to one destination.

    ``kind`` is ``sr``, ``seg``, ``sc``, or ``image`` for one that was received, which has no ``job_id`` and ``model``.
    ``bytes`` is of its whole file; so is the ``sha256`` of a result, that of an image is of its data set alone.
    """

    delivery_id: int
    destination: str
    attempt: int
    created_at: float
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    path: str
    bytes: int
    sha256: str
    job_id: int | None
    model: str | None
    last_received_at: float

    def __str__(self) -> str:
        """What it is, as logs say it, without a UID."""
        return f"an image, delivery {self.delivery_id}" if self.job_id is None else f"{self.kind} of job {self.job_id}"


@dataclass(frozen=True, slots=True)
class Answered:
    """A delivery that its destination has, since ``at`` (seconds since 1970).

    ``status`` is that of its C-STORE answer, ``None`` where there is none.
    """

    delivery: ClaimedDelivery
    at: float
    status: int | None


@dataclass(frozen=True, slots=True)
class JobView:
    """One job as status pages show it."""

    job_id: int
    state: JobState
    model: str
    model_version: str
    shadow: bool
    scope: Scope
    revision: int
    attempts: int
    reason: str | None
    message: str | None
    last_received_at: float
    created_at: float
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class SeriesView:
    """One series as status pages show it; ``missing`` images were expected and are not here."""

    series_id: int
    state: SeriesState
    revision: int
    sign: str
    image_count: int
    missing: int
    late: int
    last_received_at: float


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """One destination's deliveries in one state; ``message`` is why the newest that was tried is not done."""

    destination: str
    state: DeliveryState
    count: int
    oldest_created_at: float
    message: str | None


class Outcome(StrEnum):
    """Of a received instance."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
