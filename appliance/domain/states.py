"""The states that the journal's rows pass through. The arrows are tables in the database (``journal/schema``)."""

from __future__ import annotations

from enum import StrEnum


class SeriesState(StrEnum):
    """Of a series: images are still expected, or it is taken to be whole."""

    RECEIVING = "receiving"
    COMPLETE = "complete"


class JobState(StrEnum):
    """Of one model's work on one image or series revision."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    UNSUITABLE = "unsuitable"
    FAILED = "failed"
    SUPERSEDED = "superseded"


class DeliveryState(StrEnum):
    """Of one result object on its way to one destination."""

    QUEUED = "queued"
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"


class ProcedureStepState(StrEnum):
    """Performed Procedure Step Status (0040,0252) of a Modality Performed Procedure Step, in lower case."""

    IN_PROGRESS = "in progress"
    COMPLETED = "completed"
    DISCONTINUED = "discontinued"


class StepMessageState(StrEnum):
    """Of one message about a procedure step on its way to the RIS."""

    QUEUED = "queued"
    DELIVERED = "delivered"
    FAILED = "failed"


class CommitmentState(StrEnum):
    """Of a storage commitment: asked for, judged so that its report waits, and what became of the report."""

    PENDING = "pending"
    QUEUED = "queued"
    REPORTED = "reported"
    FAILED = "failed"


class Scope(StrEnum):
    """What one job judges."""

    INSTANCE = "instance"
    SERIES = "series"


class Stage(StrEnum):
    """The measured parts of a study's way, in order, and two ways across several of them: ``TO_INFER`` is complete →
    the first network starts, ``TOTAL`` is last byte in → result acknowledged by the PACS.
    """

    RECEIVE = "receive"
    SETTLE = "settle"
    QUEUE = "queue"
    LOAD = "load"
    TO_INFER = "to_infer"
    INFER = "infer"
    READ_OUT = "read_out"
    WRITE = "write"
    DELIVER = "deliver"
    TOTAL = "total"
