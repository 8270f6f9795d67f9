"""Long real series, as one scanner after another would send them: MR of 192 slices, CT of 300, compressed or not."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from tests.support.dicom_factory import Subject

CT_SLICES = 300
SYNTAXES = {
    "JPEG-LS": (JPEGLSLossless, "--propose-jls-lossless"),
    "JPEG 2000": (JPEG2000Lossless, "--propose-j2k-lossless"),
    "RLE": (RLELossless, "--propose-rle"),
    "JPEG lossless": (None, "--propose-lossless"),
}
"""How the CT can be compressed, and what dcmtk's sender has to be told; dcmtk has to make JPEG lossless as well."""


def mr_templates(shared_data: Path) -> list[Path]:
    """The files of a sagittal T1 MR of a head, 192 slices of 256 × 256."""
    return sorted((shared_data / "mr_t1_SAG-anon").glob("*.dcm"))


def ct_templates(shared_data: Path, folder: Path) -> list[Path]:
    """Write CT of a head, 300 slices of 512 × 512 without compression: those of a real one, and between them."""
    sources = [dcmread(path) for path in sorted((shared_data / "ct_head_GE_dcm_qa_ct").glob("*.dcm"))]
    sources.sort(key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    heights = [float(dataset.ImagePositionPatient[2]) for dataset in sources]
    # Images in the same place would be two stacks.
    kept = [0] + [index for index in range(1, len(sources)) if heights[index] - heights[index - 1] > 0.5]
    heights = [heights[index] for index in kept]
    pixels = np.stack([sources[index].pixel_array for index in kept]).astype(np.float32)
    noise = np.random.default_rng(0)
    folder.mkdir(parents=True)
    paths = []
    for number, height in enumerate(np.linspace(heights[0], heights[-1], CT_SLICES), start=1):
        above = int(np.clip(np.searchsorted(heights, height), 1, len(heights) - 1))
        share = (height - heights[above - 1]) / (heights[above] - heights[above - 1])
        # Thin slices are noisier than what they were made from: compression must not find it easier than in life.
        between = (1 - share) * pixels[above - 1] + share * pixels[above] + noise.normal(0, 8, pixels.shape[1:])
        dataset = dcmread(_path_of(sources[0]))
        dataset.PixelData = np.round(between).clip(-2000, 32000).astype("<i2").tobytes()
        dataset.ImagePositionPatient = [*sources[0].ImagePositionPatient[:2], f"{height:.4f}"]
        dataset.SliceThickness, dataset.InstanceNumber = "0.6", number
        paths.append(folder / f"{number:04}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def compressed(templates: Sequence[Path], folder: Path, syntax: str) -> list[Path]:
    """Write files again in one of ``SYNTAXES``, without loss."""
    folder.mkdir(parents=True)
    paths = []
    for template in templates:
        paths.append(folder / template.name)
        uid, _ = SYNTAXES[syntax]
        if uid is None:
            subprocess.run(["dcmcjpeg", "+e1", str(template), str(paths[-1])], check=True, capture_output=True)
            continue
        dataset = dcmread(template)
        dataset.compress(uid, generate_instance_uid=False)
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def study_of(templates: Sequence[Path], folder: Path, name: str) -> list[Path]:
    """Write the images of templates as the study of somebody else: each name makes another."""
    subject = Subject(seed=name)
    folder.mkdir(parents=True)
    paths = []
    for number, template in enumerate(templates, start=1):
        dataset = dcmread(template)
        rename(dataset, subject, number)
        paths.append(folder / template.name)
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def rename(dataset: Dataset, subject: Subject, number: int) -> None:
    """Give a data set the UIDs of a subject."""
    dataset.StudyInstanceUID = subject.uid("study")
    dataset.SeriesInstanceUID = subject.uid("series")
    dataset.FrameOfReferenceUID = subject.uid("frame of reference")
    dataset.SOPInstanceUID = subject.uid("image", number)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def _path_of(dataset: Dataset) -> str:
    return str(dataset.filename)
