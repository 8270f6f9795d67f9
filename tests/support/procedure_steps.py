"""What a modality says of its work: the attributes of N-CREATE and N-SET, and an association to send them on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import ModalityPerformedProcedureStep


def begun(study_instance_uid: str = "1.2.3", **attributes: object) -> Dataset:
    """The attributes of an N-CREATE."""
    scheduled = Dataset()
    scheduled.StudyInstanceUID = study_instance_uid
    step = Dataset()
    step.ScheduledStepAttributesSequence = [scheduled]
    step.PatientName = "Phantom^Test"
    step.PatientID = "P1"
    step.PerformedProcedureStepID = "PPS1"
    step.PerformedStationAETitle = "CT1"
    step.PerformedProcedureStepStartDate = "20261124"
    step.PerformedProcedureStepStartTime = "101500"
    step.PerformedProcedureStepStatus = "IN PROGRESS"
    step.Modality = "CT"
    step.PerformedSeriesSequence = []
    return _with(step, attributes)


def ended(images: Iterable[Dataset] = (), status: str = "COMPLETED", **attributes: object) -> Dataset:
    """The attributes of the last N-SET, which lists these images."""
    by_series: dict[str, list[Dataset]] = {}
    for image in images:
        reference = Dataset()
        reference.ReferencedSOPClassUID = image.SOPClassUID
        reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
        by_series.setdefault(image.SeriesInstanceUID, []).append(reference)
    step = Dataset()
    step.PerformedProcedureStepStatus = status
    step.PerformedProcedureStepEndDate = "20261124"
    step.PerformedProcedureStepEndTime = "102000"
    step.PerformedSeriesSequence = [_series(uid, references) for uid, references in by_series.items()]
    return _with(step, attributes)


@contextmanager
def modality(port: int, called: str = "APPLIANCE") -> Iterator[Association]:
    """An association of a modality."""
    entity = AE("CT1")
    entity.add_requested_context(ModalityPerformedProcedureStep)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    assert association.is_established
    yield association
    association.release()


def create(association: Association, uid: str | None, step: Dataset) -> Dataset:
    """Send an N-CREATE; return the status data set of the answer."""
    return association.send_n_create(step, ModalityPerformedProcedureStep, uid)[0]


def change(association: Association, uid: str, modification: Dataset) -> Dataset:
    """Send an N-SET; return the status data set of the answer."""
    return association.send_n_set(modification, ModalityPerformedProcedureStep, uid)[0]


def _series(uid: str, references: list[Dataset]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = uid
    series.ProtocolName = "Head"
    series.ReferencedImageSequence = references
    return series


def _with(step: Dataset, attributes: dict[str, object]) -> Dataset:
    """Other values; ``None``: without the attribute."""
    for keyword, value in attributes.items():
        if value is None:
            del step[keyword]
        else:
            setattr(step, keyword, value)
    return step
