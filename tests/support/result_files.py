"""Small valid result objects as files, and what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import split_dataset

from appliance.delivery.outgoing import Outgoing
from appliance.domain.uids import derived_uid
from tests.support.peers import SC, SEG, SR

SOP_CLASSES = {"sr": SR, "seg": SEG, "sc": SC}
EXPLICIT, IMPLICIT = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)


def result_file(
    folder: Path, kind: str, seed: str, *, transfer_syntax_uid: str = EXPLICIT, pixels: int = 16
) -> Outgoing:
    """Write a result object of ``kind`` (``sr``, ``seg``, ``sc``); the same seed gives the same UIDs.

    ``pixels`` is the width and height of SEG and SC.
    """
    dataset = _common(kind, seed)
    if kind == "sr":
        _add_content(dataset)
    elif kind == "sc":
        _add_pixels(dataset, pixels)
    else:
        _add_frame(dataset, pixels, seed)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}-{hashlib.sha256(seed.encode()).hexdigest()[:8]}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return outgoing(path, kind)


def outgoing(path: Path, kind: str) -> Outgoing:
    """What the journal would know of a file."""
    content = path.read_bytes()
    meta = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"])
    return Outgoing(
        path=path,
        kind=kind,
        sop_class_uid=str(meta.SOPClassUID),
        sop_instance_uid=str(meta.SOPInstanceUID),
        transfer_syntax_uid=str(meta.file_meta.TransferSyntaxUID),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def result_files(folder: Path, kinds: Sequence[str] = ("sr", "sc", "seg"), seed: str = "1") -> list[Outgoing]:
    """One object of each kind."""
    return [result_file(folder, kind, f"{seed}-{kind}") for kind in kinds]


def data_set_bytes(path: Path) -> bytes:
    """The encoded data set of a file, without its file meta information."""
    _, offset = split_dataset(path)
    return path.read_bytes()[offset:]


def _common(kind: str, seed: str) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = SOP_CLASSES[kind]
    dataset.SOPInstanceUID = derived_uid(seed, "instance")
    dataset.StudyInstanceUID = derived_uid(seed, "study")
    dataset.SeriesInstanceUID = derived_uid(seed, "series")
    dataset.Modality = {"sr": "SR", "seg": "SEG", "sc": "OT"}[kind]
    dataset.PatientName, dataset.PatientID = "Phantom^Test", "PHANTOM-1"
    dataset.PatientBirthDate, dataset.PatientSex = "", ""
    dataset.StudyDate = dataset.ContentDate = "20240131"
    dataset.StudyTime = dataset.ContentTime = "101500"
    dataset.StudyID = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.Manufacturer = "Test"
    return dataset


def _add_content(dataset: Dataset) -> None:
    concept = Dataset()
    concept.CodeValue, concept.CodingSchemeDesignator = "126000", "DCM"
    concept.CodeMeaning = "Imaging Measurement Report"
    dataset.ValueType = "CONTAINER"
    dataset.ContinuityOfContent = "SEPARATE"
    dataset.ConceptNameCodeSequence = [concept]
    dataset.CompletionFlag, dataset.VerificationFlag = "COMPLETE", "UNVERIFIED"
    dataset.PerformedProcedureCodeSequence = []
    dataset.ContentSequence = []


def _add_pixels(dataset: Dataset, size: int) -> None:
    dataset.ConversionType = "WSD"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows = dataset.Columns = size
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.add_new("PixelData", "OB", bytes(size * size * 3))


def _add_frame(dataset: Dataset, size: int, seed: str) -> None:
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SegmentationType = "BINARY"
    dataset.FrameOfReferenceUID = derived_uid(seed, "frame")
    dataset.NumberOfFrames = 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = size
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 1, 1, 0, 0
    bits = np.packbits(np.random.default_rng(7).integers(0, 2, size * size, np.uint8), bitorder="little").tobytes()
    dataset.add_new("PixelData", "OB", bits + bytes(len(bits) % 2))
