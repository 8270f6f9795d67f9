"""What a procedure step may become (PS3.4 table F.7.2-1)."""

from __future__ import annotations

import pytest
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from appliance.domain.states import ProcedureStepState
from appliance.intake.procedure_step import StepRefused, changed, check_new, listed_images, state_of
from tests.support.procedure_steps import begun, ended


def image(number: int, series: str = "1.2.3.4") -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = f"{series}.{number}"
    dataset.SeriesInstanceUID = series
    return dataset


def test_a_step_that_begins() -> None:
    check_new(begun())
    check_new(begun(PatientName=None, PatientID=None))  # of type 2; some modalities leave them out


@pytest.mark.parametrize(
    ("attributes", "status", "comment"),
    [
        ({"Modality": None}, 0x0120, "Modality (0008,0060) is missing"),
        ({"Modality": ""}, 0x0121, "Modality (0008,0060) is empty"),
        ({"PerformedProcedureStepID": None}, 0x0120, "PerformedProcedureStepID (0040,0253) is missing"),
        ({"ScheduledStepAttributesSequence": None}, 0x0120, "ScheduledStepAttributesSequence (0040,0270) is missing"),
        ({"ScheduledStepAttributesSequence": []}, 0x0121, "ScheduledStepAttributesSequence (0040,0270) is empty"),
        ({"ScheduledStepAttributesSequence": [Dataset()]}, 0x0120, "StudyInstanceUID (0020,000D) is missing"),
        ({"PerformedProcedureStepStatus": None}, 0x0120, "PerformedProcedureStepStatus (0040,0252) is missing"),
        ({"PerformedProcedureStepStatus": "COMPLETED"}, 0x0106, "a step begins with the status IN PROGRESS"),
        ({"PerformedProcedureStepStatus": "BUSY"}, 0x0106, "the status of the step does not exist"),
    ],
)
def test_a_step_that_cannot_begin(attributes: dict[str, object], status: int, comment: str) -> None:
    with pytest.raises(StepRefused) as caught:
        check_new(begun(**attributes))
    assert (caught.value.status, caught.value.comment) == (status, comment)


def test_a_step_goes_on_and_ends() -> None:
    step = begun()
    more = changed(step, Dataset())
    more = changed(more, ended([image(1)], "IN PROGRESS", PerformedProcedureStepEndDate=None))
    assert state_of(more) is ProcedureStepState.IN_PROGRESS
    done = changed(more, ended([image(1), image(2), image(1, "1.2.3.5")]))
    assert state_of(done) is ProcedureStepState.COMPLETED
    assert listed_images(done) == [("1.2.3.4", "1.2.3.4.1"), ("1.2.3.4", "1.2.3.4.2"), ("1.2.3.5", "1.2.3.5.1")]
    assert done.PatientName == "Phantom^Test"
    assert state_of(step) is ProcedureStepState.IN_PROGRESS  # the step itself is as it was


@pytest.mark.parametrize(
    ("modification", "status", "comment"),
    [
        (ended([image(1)], "DONE"), 0x0106, "the status of the step does not exist"),
        (ended([image(1)], PerformedProcedureStepEndTime=None), 0x0120, "PerformedProcedureStepEndTime (0040,0251)"),
        (ended([image(1)], "DISCONTINUED", PerformedProcedureStepEndDate=""), 0x0121, "PerformedProcedureStepEndDate"),
        (ended(), 0x0121, "PerformedSeriesSequence (0040,0340) is empty"),
        (ended(PerformedSeriesSequence=[Dataset()]), 0x0120, "SeriesInstanceUID (0020,000E) is missing"),
        (ended([image(1)], PatientID="P2"), 0x0106, "PatientID (0010,0020) must not be changed"),
    ],
)
def test_a_change_that_cannot_be(modification: Dataset, status: int, comment: str) -> None:
    with pytest.raises(StepRefused) as caught:
        changed(begun(), modification)
    assert caught.value.status == status
    assert caught.value.comment.startswith(comment)


def test_a_series_whose_uid_is_none() -> None:
    modification = ended([image(1)])
    uid = DataElement("SeriesInstanceUID", "UI", "one", validation_mode=IGNORE)
    modification.PerformedSeriesSequence[0][uid.tag] = uid
    with pytest.raises(StepRefused, match=r"SeriesInstanceUID \(0020,000E\) is not a UID"):
        changed(begun(), modification)


def test_a_discontinued_step_need_not_have_a_series() -> None:
    done = changed(begun(PerformedSeriesSequence=None), ended(status="DISCONTINUED", PerformedSeriesSequence=None))
    assert state_of(done) is ProcedureStepState.DISCONTINUED
    assert listed_images(done) == []


def test_what_is_repeated_is_no_change() -> None:
    done = changed(begun(), ended([image(1)], PatientID="P1", ScheduledStepAttributesSequence=[]))
    assert done.ScheduledStepAttributesSequence[0].StudyInstanceUID == "1.2.3"


def test_what_is_no_image_is_not_waited_for() -> None:
    modification = ended([image(1)])
    report = Dataset()
    report.ReferencedSOPInstanceUID = "1.2.9"
    modification.PerformedSeriesSequence[0].ReferencedNonImageCompositeSOPInstanceSequence = [report]
    assert listed_images(changed(begun(), modification)) == [("1.2.3.4", "1.2.3.4.1")]


def test_another_character_set_makes_the_step_unicode() -> None:
    step = begun(SpecificCharacterSet="ISO_IR 100", PatientName="Schädel^Test")
    done = changed(step, ended([image(1)], SpecificCharacterSet="ISO_IR 144", PerformedProcedureStepDescription="Мозг"))
    assert done.SpecificCharacterSet == "ISO_IR 192"
    assert (str(done.PatientName), done.PerformedProcedureStepDescription) == ("Schädel^Test", "Мозг")
