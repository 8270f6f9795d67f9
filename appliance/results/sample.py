"""A result of nobody: to try out writers and destinations with, so marked that no one takes it for a patient's."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from appliance.domain.codes import Code
from appliance.domain.geometry import Grid
from appliance.domain.image import ImageVolume, SourceFrame
from appliance.domain.result import Algorithm, Finding, InferenceResult, Measurement, Segment
from appliance.domain.uids import derived_uid
from appliance.results.context import ResultContext
from appliance.results.sources import SourceImages

_SLICES: Final = 3
_MOMENT: Final = datetime(2000, 1, 1)
_BALL: Final = Code("91723000", "SCT", "Anatomical Structure")
_NOTE: Final = "This is a test of the appliance. There is no such patient, and no such images."


def sample_result(size: int) -> tuple[InferenceResult, SourceImages, ResultContext]:
    """A ball in three slices of ``size`` × ``size`` pixels; always the same, so that to send it again adds nothing."""
    frames = tuple(
        SourceFrame(MRImageStorage, derived_uid("appliance", "sample", str(size), str(index)))
        for index in range(_SLICES)
    )
    places = (
        np.indices((_SLICES, size, size))
        - np.array([(_SLICES - 1) / 2, (size - 1) / 2, (size - 1) / 2])[:, None, None, None]
    )
    mask = (places[0] * size / 8) ** 2 + places[1] ** 2 + places[2] ** 2 <= (size / 3) ** 2
    grid = Grid(mask.shape, np.diag([5.0, 1.0, 1.0, 1.0]))
    volume_ml = float(mask.sum(axis=(1, 2)) @ grid.voxel_volumes_mm3) / 1000
    result = InferenceResult(
        algorithm=Algorithm("TEST", "0", Code("123110", "DCM", "Artificial Intelligence"), "TEST"),
        image=ImageVolume(mask.astype(np.float32) * 1000, grid, frames, None, "MR"),
        findings=(
            Finding(
                "test",
                _BALL,
                None,
                None,
                (Measurement(Code("118565006", "SCT", "Volume"), volume_ml, Code("ml", "UCUM", "milliliter")),),
                0,
            ),
        ),
        segments=(Segment("TEST", mask, _BALL, _BALL, None, (255, 196, 0)),),
        intended_use="To see what a destination accepts.",
        title="TEST, NOT A PATIENT",
        notes=(_NOTE,),
    )
    sources = SourceImages([_source(frame, size, index) for index, frame in enumerate(frames)])
    return result, sources, ResultContext("test/0", 1, _MOMENT, "0")


def _source(frame: SourceFrame, size: int, index: int) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = frame.sop_class_uid, frame.sop_instance_uid
    dataset.StudyInstanceUID = derived_uid("appliance", "sample", str(size), "study")
    dataset.SeriesInstanceUID = derived_uid("appliance", "sample", str(size), "series")
    dataset.Modality = "MR"
    dataset.PatientName = "TEST^APPLIANCE^NOT A PATIENT"
    dataset.PatientID = "APPLIANCE-TEST"
    dataset.StudyDescription = "TEST, NOT A PATIENT"
    dataset.StudyDate, dataset.StudyTime = f"{_MOMENT:%Y%m%d}", f"{_MOMENT:%H%M%S}"
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "TEST", 1, index + 1
    return dataset
