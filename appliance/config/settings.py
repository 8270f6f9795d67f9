"""The settings, one class per section. Every field has its unit in its name, its bounds in its type, and its words.

Nothing here reads a file or opens a socket; ``config/reader`` makes these from YAML.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from appliance.domain.forms import USUAL_FORMS, Form
from appliance.domain.languages import Language

AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[\x21-\x5b\x5d-\x7e][\x20-\x5b\x5d-\x7e]*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]

MEBIBYTE = 1024 * 1024


class Section(BaseModel):
    """Base of all sections: an unknown key is an error, a value never changes after reading, no number is infinite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Peer(Section):
    """A node that may associate with the appliance."""

    ae_title: Annotated[AeTitle, Field(description="Its AE title, as it calls itself")]
    host: Annotated[str | None, Field(description="The only address it may come from; absent: any address")] = None
    port: Annotated[
        Port | None,
        Field(
            description="Its TCP port, for storage commitment; absent: reports only go back on associations of its own"
        ),
    ] = None


class DicomNode(Section):
    """The DICOM network node that receives images."""

    ae_title: Annotated[AeTitle, Field(description="AE title of the appliance; peers must call it by this name")] = (
        "APPLIANCE"
    )
    host: Annotated[str, Field(description="Address to listen on; 0.0.0.0 for all interfaces")] = "0.0.0.0"
    port: Annotated[Port, Field(description="TCP port to listen on")] = 11112
    peers: Annotated[
        list[Peer], Field(description="Who may associate; an empty list lets every AE title in (evaluation only)")
    ] = []
    max_associations: Annotated[int, Field(ge=1, le=1000, description="Associations at the same time")] = 32
    max_associations_per_peer: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="Associations at the same time from one address, so that it leaves some to others",
        ),
    ] = 16
    max_connections: Annotated[
        int,
        Field(
            ge=2,
            le=4000,
            description="Connections at the same time, if that is more than max_associations; beyond it, one that has "
            "not associated yet has to make room",
        ),
    ] = 128
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=1048576, description="Largest PDU offered to peers, in bytes")] = (
        131072
    )
    network_timeout_s: Annotated[
        float, Field(gt=0, description="A peer that is silent for this long within an association is dropped")
    ] = 60.0
    negotiation_timeout_s: Annotated[
        float, Field(gt=0, description="A connection has to be an association within this long")
    ] = 30.0
    pdu_timeout_s: Annotated[
        float, Field(gt=0, description="A PDU has to arrive whole, and an answer be taken, within this long")
    ] = 60.0
    min_bytes_per_s: Annotated[
        int,
        Field(
            ge=0,
            description="A message that arrives slower than this on average, looked at after network_timeout_s, "
            "is broken off; 0: never",
        ),
    ] = 1024
    max_instance_bytes: Annotated[
        int, Field(ge=MEBIBYTE, description="Largest data set that is taken, in bytes; a larger one is refused")
    ] = 4096 * MEBIBYTE


class DropFolder(Section):
    """The folder that images can be copied into."""

    enabled: Annotated[bool, Field(description="Whether the folder is watched")] = True
    path: Annotated[Path | None, Field(description="The folder; absent: dropfolder/ inside the state folder")] = None
    quiet_s: Annotated[
        float, Field(gt=0, description="A file is taken when neither size nor time changed for this long")
    ] = 2.0
    poll_s: Annotated[
        float, Field(gt=0, description="How often the folder is looked through, as on network mounts inotify is silent")
    ] = 2.0
    max_archive_bytes: Annotated[
        int, Field(ge=MEBIBYTE, description="Largest unpacked size of one zip file, in bytes")
    ] = 16384 * MEBIBYTE


class RemoteNode(Section):
    """Another DICOM node that the appliance speaks to."""

    ae_title: Annotated[AeTitle, Field(description="Its AE title")]
    host: Annotated[str, Field(min_length=1, description="Its address")]
    port: Annotated[Port, Field(description="Its TCP port")]
    timeout_s: Annotated[float, Field(gt=0, description="Longest wait for an answer")] = 10.0


class CountingPacs(RemoteNode):
    """A PACS that is asked how many instances of a series it has."""

    ask_after_s: Annotated[
        float, Field(gt=0, description="Asked once a series is quiet for this long, and again after as long")
    ] = 2.0


class Assembly(Section):
    """When a series is taken to be complete."""

    settle_s: Annotated[
        float, Field(ge=0, description="After the association that sent the images was released, wait this long")
    ] = 1.0
    stable_age_s: Annotated[
        float, Field(gt=0, description="Without a better sign: no new image of the series for this long")
    ] = 30.0
    images_in_acquisition: Annotated[
        bool, Field(description="Whether Images in Acquisition (0020,1002) counts as the number of a series' images")
    ] = True
    pacs: Annotated[
        CountingPacs | None,
        Field(description="The PACS that forwards images here, to ask it for their number; absent: none is asked"),
    ] = None


class Storage(Section):
    """The disk."""

    min_free_bytes: Annotated[
        int, Field(ge=0, description="Below this much free space, in bytes, images are refused with 0xA700")
    ] = 2048 * MEBIBYTE


class Retention(Section):
    """What is deleted, and when."""

    max_age_days: Annotated[
        float | None,
        Field(gt=0, description="Studies whose last image and result are older are deleted; null: whatever their age"),
    ] = 30.0
    target_free_bytes: Annotated[
        int | None,
        Field(
            ge=0,
            description="Below this much free space, in bytes, the oldest studies are deleted; 0: never for space; "
            "absent: twice storage.min_free_bytes",
        ),
    ] = None
    min_age_s: Annotated[
        float, Field(ge=0, description="Younger studies are not deleted, however full the disk is")
    ] = 3600.0
    keep_failed_days: Annotated[
        float, Field(ge=0, description="Failed jobs and deliveries keep their study for this long, to be requeued")
    ] = 14.0


class Models(Section):
    """Which model packages are used."""

    folder: Annotated[Path | None, Field(description="Folder of packages; absent: engines/ of the installation")] = None
    active: Annotated[
        list[str] | None,
        Field(
            description="Models to run, by name; name/version pins a version, which no command then changes; "
            "absent: every model"
        ),
    ] = None

    @field_validator("active")
    @classmethod
    def _names(cls, value: list[str] | None) -> list[str] | None:
        names = [entry.partition("/")[0] for entry in value or []]
        if len(set(names)) != len(names):
            raise ValueError("a model is named twice")
        return value

    @property
    def names(self) -> frozenset[str] | None:
        """Names of the models to run, without their versions; ``None``: every model."""
        return None if self.active is None else frozenset(entry.partition("/")[0] for entry in self.active)


class Worker(Section):
    """Who runs the models."""

    count: Annotated[int, Field(ge=1, le=64, description="Worker processes")] = 1
    threads: Annotated[
        int, Field(ge=0, le=256, description="Threads per worker for inference; 0: all cores, shared by the workers")
    ] = 0
    gpu_memory_bytes: Annotated[
        int,
        Field(ge=0, description="GPU memory that the models of one worker may hold; 0: an equal share"),
    ] = 0
    decoders: Annotated[
        int,
        Field(
            ge=0, le=256,
            description="Processes per worker that decode compressed images; 0: all cores, shared by the workers",
        ),
    ] = 0  # fmt: skip
    prepare_bytes: Annotated[
        int,
        Field(
            ge=0,
            description="Memory of a worker for series that are prepared while their images still arrive, in bytes; "
            "0: each is loaded when its turn has come",
        ),
    ] = 1024 * MEBIBYTE
    nice: Annotated[int, Field(ge=0, le=19, description="Niceness of the workers, so that reception stays quick")] = 5
    max_attempts: Annotated[
        int, Field(ge=1, le=100, description="Attempts at a job before it is given up, crashes counted")
    ] = 3
    retry_s: Annotated[float, Field(ge=0, description="Wait before a failed job is tried again")] = 5.0
    lease_s: Annotated[
        float, Field(ge=5, description="A worker that gives no sign for this long loses its job to another")
    ] = 60.0


class Retry(Section):
    """Back-off of deliveries that did not get through."""

    first_s: Annotated[float, Field(gt=0, description="Wait after the first failure")] = 2.0
    factor: Annotated[float, Field(ge=1, description="Each further wait is this many times longer")] = 2.0
    longest_s: Annotated[float, Field(gt=0, description="No wait is longer")] = 300.0
    give_up_after_s: Annotated[
        float, Field(gt=0, description="A delivery that has not got through after this long is failed")
    ] = 7 * 86400.0


class Ris(RemoteNode):
    """The information system that wants to hear what modalities say of their work."""

    retry: Annotated[Retry, Field(description="Back-off")] = Retry()


class Mpps(Section):
    """Modality Performed Procedure Steps: what modalities say of their work."""

    enabled: Annotated[bool, Field(description="Whether the DICOM node takes them; each is kept for 30 days")] = True
    ris: Annotated[Ris | None, Field(description="Where all of them are sent on to; absent: nowhere")] = None


class Commitment(Section):
    """Storage commitment: peers ask whether what they sent is safe, and are told."""

    enabled: Annotated[
        bool, Field(description="Whether the DICOM node takes requests; those that it took are reported in any case")
    ] = True
    wait_s: Annotated[
        float, Field(ge=0, description="Instances that are still on their way are waited for, before they have failed")
    ] = 10.0
    max_references: Annotated[
        int, Field(ge=1, le=1000000, description="Instances that one request may name; more are refused with 0x0213")
    ] = 20000
    timeout_s: Annotated[float, Field(gt=0, description="Longest wait for the answer to a report")] = 10.0
    retry: Annotated[Retry, Field(description="Back-off")] = Retry()


class Forward(Section):
    """Which received images a destination gets, as they came."""

    modalities: Annotated[
        list[Annotated[str, Field(pattern=r"^[A-Z0-9]{1,16}$")]] | None,
        Field(min_length=1, description="Those of these modalities (0008,0060); absent: all images"),
    ] = None


class Receiving(Section):
    """What all kinds of destination have in common."""

    name: Annotated[Name, Field(description="Name in logs, metrics and commands")]
    results: Annotated[list[Form], Field(description="Which result objects it gets")] = [*USUAL_FORMS]
    forward: Annotated[Forward | None, Field(description="Which received images it gets; absent: none")] = None
    retry: Annotated[Retry, Field(description="Back-off")] = Retry()

    @model_validator(mode="after")
    def _gets_something(self) -> Self:
        if not self.results and self.forward is None:
            raise ValueError(f"{self.name!r} gets neither results nor images: name some, or remove it")
        return self


class DicomDestination(Receiving):
    """A PACS that objects are sent to by C-STORE."""

    kind: Literal["dicom"]
    ae_title: Annotated[AeTitle, Field(description="Its AE title")]
    host: Annotated[str, Field(min_length=1, description="Its address")]
    port: Annotated[Port, Field(description="Its TCP port")]
    timeout_s: Annotated[float, Field(gt=0, description="Longest wait for an answer")] = 30.0


class FolderDestination(Receiving):
    """A folder that objects are copied to."""

    kind: Literal["folder"]
    path: Annotated[Path, Field(description="The folder")]


Destination = Annotated[DicomDestination | FolderDestination, Field(discriminator="kind")]


class Report(Section):
    """Draft reports (the form ``pdf``)."""

    language: Annotated[Language, Field(description="Language of draft reports")] = "en"


class Console(Section):
    """Metrics, health and status over HTTP."""

    host: Annotated[str, Field(description="Address to listen on; loopback unless a proxy protects it")] = "127.0.0.1"
    port: Annotated[Port, Field(description="TCP port of /metrics, /healthz, /readyz and /status")] = 9464


class Logging(Section):
    """Logs, on standard error."""

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(description="Least level shown")] = "INFO"


class Settings(Section):
    """All settings."""

    state_dir: Annotated[
        Path | None,
        Field(description="Journal, spool and caches; --state-dir overrides it; absent: the state folder of the user"),
    ] = None
    device_serial: Annotated[
        str, Field(min_length=1, max_length=64, description="Device Serial Number (0018,1000) in results")
    ] = "0"
    dicom: Annotated[DicomNode, Field(description="DICOM network node")] = DicomNode()
    dropfolder: Annotated[DropFolder, Field(description="Drop folder")] = DropFolder()
    assembly: Annotated[Assembly, Field(description="When a series is complete")] = Assembly()
    mpps: Annotated[Mpps, Field(description="Modality Performed Procedure Steps")] = Mpps()
    commitment: Annotated[Commitment, Field(description="Storage commitment")] = Commitment()
    storage: Annotated[Storage, Field(description="Disk")] = Storage()
    retention: Annotated[Retention, Field(description="What is deleted, and when", validate_default=True)] = Retention()
    models: Annotated[Models, Field(description="Model packages")] = Models()
    worker: Annotated[Worker, Field(description="Worker processes")] = Worker()
    destinations: Annotated[
        list[Destination], Field(description="Where results and forwarded images go, each on its own")
    ] = []
    report: Annotated[Report, Field(description="Draft reports")] = Report()
    console: Annotated[Console, Field(description="HTTP", validate_default=True)] = Console()
    logging: Annotated[Logging, Field(description="Logs")] = Logging()

    @property
    def retention_target_free_bytes(self) -> int:
        """Below this much free space, in bytes, the oldest studies are deleted."""
        wanted = self.retention.target_free_bytes
        return 2 * self.storage.min_free_bytes if wanted is None else wanted

    @field_validator("retention")
    @classmethod
    def _deletion_comes_before_refusal(cls, value: Retention, info: ValidationInfo) -> Retention:
        storage = info.data.get("storage")  # absent when it breaks a rule of its own
        if (
            isinstance(storage, Storage)
            and value.target_free_bytes
            and (value.target_free_bytes <= storage.min_free_bytes)
        ):
            raise ValueError("target_free_bytes is not above storage.min_free_bytes: images would be refused first")
        return value

    @field_validator("destinations")
    @classmethod
    def _destinations_differ(cls, value: list[Destination]) -> list[Destination]:
        names = [destination.name for destination in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two destinations are called {name!r}")
        return value

    @field_validator("destinations")
    @classmethod
    def _no_result_is_taken_in(cls, value: list[Destination], info: ValidationInfo) -> list[Destination]:
        dropfolder = info.data.get("dropfolder")  # absent when it breaks a rule of its own
        watched = dropfolder.path if isinstance(dropfolder, DropFolder) and dropfolder.enabled else None
        for destination in value:
            if watched and isinstance(destination, FolderDestination) and destination.path.is_relative_to(watched):
                raise ValueError(f"{destination.name!r} lies in the drop folder, which would take its results away")
        return value

    @field_validator("console")
    @classmethod
    def _ports_differ(cls, value: Console, info: ValidationInfo) -> Console:
        dicom = info.data.get("dicom")  # absent when it breaks a rule of its own
        if isinstance(dicom, DicomNode) and dicom.port == value.port:
            raise ValueError(f"dicom.port and console.port are both {value.port}")
        return value
