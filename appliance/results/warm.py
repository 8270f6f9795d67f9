"""The first result costs half a second more than the next ones; this pays for it before a patient waits."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from appliance.domain.codes import Code
from appliance.domain.geometry import Grid
from appliance.domain.image import ImageVolume, SourceFrame
from appliance.domain.result import Algorithm, Finding, InferenceResult, Measurement, Segment
from appliance.domain.uids import derived_uid
from appliance.results.context import ResultContext
from appliance.results.objects import write_results
from appliance.results.sources import SourceImages

_CODE = Code("0", "99TEST", "Test")


def warm_up() -> None:
    """Write a tiny result of nobody and forget it: highdicom reads its tables of the Standard, fonts are loaded.

    Raises
    ------
    ResultError
        Results cannot be written at all, on this machine or in this version.
    """
    frames = tuple(SourceFrame(MRImageStorage, derived_uid("warm", str(index))) for index in range(2))
    datasets = []
    for frame in frames:
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = frame.sop_class_uid, frame.sop_instance_uid
        dataset.StudyInstanceUID = dataset.SeriesInstanceUID = derived_uid("warm")
        dataset.Modality = "MR"
        datasets.append(dataset)
    mask = np.ones((2, 8, 8), dtype=np.bool_)
    result = InferenceResult(
        algorithm=Algorithm("warm", "0", _CODE, "warm"),
        image=ImageVolume(np.zeros(mask.shape, np.float32), Grid(mask.shape, np.eye(4)), frames, None, "MR"),
        findings=(Finding("warm", _CODE, _CODE, None, (Measurement(_CODE, 1.0, _CODE),), 0),),
        segments=(Segment("warm", mask, _CODE, _CODE, None, (255, 255, 255)),),
        intended_use="None",
        title="Warm",
    )
    context = ResultContext("warm/0", 1, datetime(2000, 1, 1), "0")
    with TemporaryDirectory(prefix="appliance-warm-") as folder:
        write_results(result, SourceImages(datasets), context, Path(folder))
