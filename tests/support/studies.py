"""Real images as the studies of made-up patients: each call with another name gives another study."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.support.dicom_factory import Subject, radiograph, write_datasets

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))


def chest_study(shared_data: Path, folder: Path, name: str, image: str = "1052b0fe") -> list[Path]:
    """A CR chest study of one real radiograph (CC BY 3.0, Hannover Medical School)."""
    grey = np.asarray(Image.open(shared_data / "cxr_lungmasks" / "images" / f"{image}.png").convert("L"))
    dataset = radiograph(grey.astype(np.uint16) * 16, "CR", subject=Subject(seed=f"chest {name}"))
    return write_datasets([dataset], folder)


def head_study(folder: Path, name: str) -> list[Path]:
    """A T1 MR series of a real head."""
    from demonstration.images import write_head_series

    subject = Subject(seed=f"head {name}")
    paths = write_head_series(REPOSITORY / ".cache" / "images", folder)
    for path in paths:
        dataset = dcmread(path)
        _rename(dataset, subject)
        dataset.save_as(path, enforce_file_format=True)
    return paths


def _rename(dataset: Dataset, subject: Subject) -> None:
    dataset.StudyInstanceUID = subject.uid("study")
    dataset.SeriesInstanceUID = subject.uid("series")
    dataset.FrameOfReferenceUID = subject.uid("frame of reference")
    dataset.SOPInstanceUID = subject.uid("image", dataset.InstanceNumber)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
