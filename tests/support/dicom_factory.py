"""Makers of valid DICOM data sets: classic MR and CT series, enhanced multi-frame MR and CT, radiographs.

The voxels are indexed ``[slice, row, column]`` (base 0), slices in the order of ``Stack.position_mm``. Every data set
has file meta information and passes ``dciodvfy``; a test that wants a bad one changes or deletes what it needs.
UIDs derive from ``Subject.seed``, so the same call gives the same data sets.

    datasets = ct_series(ct_voxels(12, 64, 64), Stack(spacing_mm=(2.5, 0.7, 0.7)))
    paths = write_datasets(datasets, tmp_path)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
"""Direction of increasing column index, then of increasing row index, in LPS (Image Orientation Patient)."""
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))


@dataclass(frozen=True)
class Subject:
    """Whose images: the patient and study attributes, and the seed of all UIDs."""

    seed: str = "1"
    attributes: dict[str, object] = field(
        default_factory=lambda: {
            "PatientName": "Phantom^Test",
            "PatientID": "PHANTOM-1",
            "PatientBirthDate": "19600229",
            "PatientSex": "O",
            "StudyDate": "20240131",
            "StudyTime": "101500",
            "StudyID": "7",
            "AccessionNumber": "ACC-42",
            "ReferringPhysicianName": "Referrer^Rita",
            "StudyDescription": "Phantom study",
        }
    )

    def uid(self, *parts: object) -> str:
        """A UID that belongs to this subject and ``parts``."""
        digest = hashlib.sha256("/".join([self.seed, *map(str, parts)]).encode()).digest()
        return f"2.25.{int.from_bytes(digest[:15], 'big')}"


@dataclass(frozen=True)
class Stack:
    """Where the slices lie.

    ``row`` is the direction of increasing column index, ``column`` of increasing row index (unit vectors, LPS), as
    in Image Orientation (Patient). ``spacing_mm`` is slice, row and column spacing. ``step_mm`` overrides the vector
    from one slice to the next (normal × slice spacing otherwise): a sheared one makes a gantry tilt. ``places`` says
    where each slice lies, in such steps, when the distance varies (0, 1, 2, … otherwise).
    """

    row: Sequence[float] = AXIAL[0]
    column: Sequence[float] = AXIAL[1]
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin_mm: tuple[float, float, float] = (-10.0, -20.0, 30.0)
    step_mm: tuple[float, float, float] | None = None
    places: Sequence[float] | None = None

    def step(self) -> NDArray[np.float64]:
        """Vector in mm from a slice to the next."""
        if self.step_mm is not None:
            return np.asarray(self.step_mm)
        return np.cross(self.row, self.column) * self.spacing_mm[0]

    def position_mm(self, index: int) -> NDArray[np.float64]:
        """Centre of the first voxel of slice ``index`` (base 0)."""
        place = index if self.places is None else self.places[index]
        return np.asarray(self.origin_mm) + place * self.step()

    def affine(self) -> NDArray[np.float64]:
        """float64 ``[4, 4]``: (slice, row, column, 1) → LPS mm, as ``domain.geometry.Grid`` has it."""
        affine = np.eye(4)
        affine[:3, 0] = self.step()
        affine[:3, 1] = np.asarray(self.column) * self.spacing_mm[1]
        affine[:3, 2] = np.asarray(self.row) * self.spacing_mm[2]
        affine[:3, 3] = self.origin_mm
        return affine


def ellipsoid(shape: tuple[int, ...], centre: float = 0.5, radius: float = 0.3) -> NDArray[np.bool_]:
    """A filled ellipsoid (or ellipse); centre and radius are fractions of each axis' length."""
    axes = np.meshgrid(*(np.linspace(0.0, 1.0, size) for size in shape), indexing="ij")
    return np.asarray(sum((axis - centre) ** 2 for axis in axes) <= radius**2)


def mr_voxels(slices: int, rows: int, columns: int) -> NDArray[np.uint16]:
    """A head-like phantom, 0 to 1000."""
    shape = (slices, rows, columns)
    noise = np.random.default_rng(7).integers(0, 40, shape)
    return (noise + 300 * ellipsoid(shape, radius=0.45) + 500 * ellipsoid(shape, radius=0.3)).astype(np.uint16)


def ct_voxels(slices: int, rows: int, columns: int) -> NDArray[np.int16]:
    """A head-like phantom in HU: air -1000, soft tissue 40, a shell of bone 800."""
    shape = (slices, rows, columns)
    hu = np.full(shape, -1000, np.int16)
    hu[ellipsoid(shape, radius=0.46)] = 800
    hu[ellipsoid(shape, radius=0.40)] = 40
    return hu


def chest_pixels(rows: int, columns: int) -> NDArray[np.uint16]:
    """A chest-like radiograph, 12 bits, bright body with two dark lungs."""
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    pixels = 400 + 2400 * np.exp(-(((x - 0.5) / 0.42) ** 4))
    for centre in (0.3, 0.7):
        pixels -= 1500 * np.exp(-((((x - centre) / 0.13) ** 2 + ((y - 0.45) / 0.28) ** 2) ** 2))
    return np.clip(pixels, 0, 4095).astype(np.uint16)


def mr_series(
    voxels: NDArray[np.uint16], stack: Stack | None = None, subject: Subject | None = None, series: int = 1
) -> list[Dataset]:
    """One MR Image Storage data set for each slice."""
    stack, subject = stack or Stack(), subject or Subject()
    datasets = []
    for index, plane in enumerate(voxels):
        dataset = _classic(MRImageStorage, "MR", index, stack, subject, series)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        dataset.ScanningSequence = ["GR", "IR"]
        dataset.SequenceVariant = "SP"
        dataset.ScanOptions = ""
        dataset.MRAcquisitionType = "3D"
        dataset.RepetitionTime = "2300"
        dataset.EchoTime = "2.98"
        dataset.EchoTrainLength = "1"
        dataset.InversionTime = "900"
        dataset.MagneticFieldStrength = "3"
        dataset.SeriesDescription = "T1 MPRAGE"
        dataset.ProtocolName = "T1 MPRAGE"
        _set_pixels(dataset, plane, bits_stored=12, signed=False)
        datasets.append(dataset)
    return datasets


def ct_series(
    hu: NDArray[np.int16], stack: Stack | None = None, subject: Subject | None = None, series: int = 1
) -> list[Dataset]:
    """One CT Image Storage data set for each slice; the voxels are HU, stored unsigned with an intercept of -1024."""
    stack, subject = stack or Stack(), subject or Subject()
    datasets = []
    for index, plane in enumerate(hu):
        dataset = _classic(CTImageStorage, "CT", index, stack, subject, series)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.KVP = "120"
        dataset.SeriesDescription = "Head 2.5 mm"
        dataset.RescaleIntercept = "-1024"
        dataset.RescaleSlope = "1"
        dataset.RescaleType = "HU"
        dataset.WindowCenter = "40"
        dataset.WindowWidth = "400"
        _set_pixels(dataset, (plane.astype(np.int32) + 1024).astype(np.uint16), bits_stored=12, signed=False)
        datasets.append(dataset)
    return datasets


def enhanced_ct(
    hu: NDArray[np.int16], stack: Stack | None = None, subject: Subject | None = None, series: int = 1
) -> Dataset:
    """One Enhanced CT Image Storage data set with all slices as frames; the voxels are HU."""
    stored = (hu.astype(np.int32) + 1024).astype(np.uint16)
    dataset = _enhanced(EnhancedCTImageStorage, "CT", stored, stack or Stack(), subject or Subject(), series)
    dataset.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    dataset.VolumetricProperties = "VOLUME"
    dataset.VolumeBasedCalculationTechnique = "NONE"
    dataset.PixelPresentation = "MONOCHROME"
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.CTImageFrameTypeSequence = [_frame_type(dataset)]
    transform = Dataset()
    transform.RescaleIntercept = "-1024"
    transform.RescaleSlope = "1"
    transform.RescaleType = "HU"
    event = Dataset()
    event.IrradiationEventUID = dataset.SeriesInstanceUID
    shared.IrradiationEventIdentificationSequence = [event]
    shared.PixelValueTransformationSequence = [transform]
    window = Dataset()
    window.WindowCenter = "40"
    window.WindowWidth = "400"
    shared.FrameVOILUTSequence = [window]
    return dataset


def enhanced_mr(
    voxels: NDArray[np.uint16], stack: Stack | None = None, subject: Subject | None = None, series: int = 1
) -> Dataset:
    """One Enhanced MR Image Storage data set with all slices as frames."""
    dataset = _enhanced(EnhancedMRImageStorage, "MR", voxels, stack or Stack(), subject or Subject(), series)
    dataset.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    dataset.ApplicableSafetyStandardAgency = "IEC"
    _add_mr_description(dataset)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frame_type = _frame_type(dataset)
    _add_mr_description(frame_type)
    shared.MRImageFrameTypeSequence = [frame_type]
    transform = Dataset()
    transform.RescaleIntercept = "0"
    transform.RescaleSlope = "1"
    transform.RescaleType = "US"
    shared.PixelValueTransformationSequence = [transform]
    return dataset


def radiograph(
    pixels: NDArray[np.uint16],
    modality: str = "DX",
    spacing_mm: tuple[float, float] | None = (0.2, 0.2),
    orientation: tuple[str, str] | None = ("L", "F"),
    photometric: str = "MONOCHROME2",
    subject: Subject | None = None,
    series: int = 1,
) -> Dataset:
    """One frontal chest radiograph, CR or DX (for presentation).

    ``spacing_mm`` is row and column spacing at the detector: Imager Pixel Spacing (0018,1164); ``orientation`` is
    Patient Orientation. Either may be ``None``: then it is left out or empty, which CR allows and DX forbids
    (PS3.3 sections C.8.1.1 and C.8.11).
    """
    subject = subject or Subject()
    sop_class = ComputedRadiographyImageStorage if modality == "CR" else DigitalXRayImageStorageForPresentation
    dataset = _header(sop_class, modality, subject, series, subject.uid(series, "image"))
    dataset.InstanceNumber = "1"
    dataset.SeriesDescription = "Chest PA"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    dataset.AcquisitionDate = dataset.StudyDate
    dataset.AcquisitionTime = "101600"
    dataset.PatientOrientation = list(orientation) if orientation is not None else ""
    if spacing_mm is not None:
        dataset.ImagerPixelSpacing = [f"{value:.6g}" for value in spacing_mm]
    if modality == "CR":
        dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    else:
        _add_dx(dataset)
    _set_pixels(dataset, pixels, bits_stored=12, signed=False)
    dataset.PhotometricInterpretation = photometric
    if modality == "DX":
        dataset.PresentationLUTShape = "INVERSE" if photometric == "MONOCHROME1" else "IDENTITY"
    return dataset


def write_datasets(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """Write each data set to ``folder`` as a Part 10 file; the paths are in the order of the data sets."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, dataset in enumerate(datasets):
        path = folder / f"{index:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _header(sop_class_uid: str, modality: str, subject: Subject, series: int, sop_instance_uid: str) -> Dataset:
    """Everything up to the frame of reference."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = sop_class_uid
    dataset.file_meta.MediaStorageSOPInstanceUID = sop_instance_uid
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = sop_instance_uid
    dataset.Modality = modality
    for keyword, value in subject.attributes.items():
        setattr(dataset, keyword, value)
    dataset.ContentDate = "20240131"
    dataset.ContentTime = "101600"
    dataset.Manufacturer = "Phantom works"
    dataset.ManufacturerModelName = "Mark I"
    dataset.DeviceSerialNumber = "1001"
    dataset.SoftwareVersions = "1.0"
    dataset.StudyInstanceUID = subject.uid("study")
    dataset.SeriesInstanceUID = subject.uid(series)
    dataset.SeriesNumber = str(series)
    return dataset


def _classic(sop_class_uid: str, modality: str, index: int, stack: Stack, subject: Subject, series: int) -> Dataset:
    dataset = _header(sop_class_uid, modality, subject, series, subject.uid(series, index))
    dataset.InstanceNumber = str(index + 1)
    dataset.AcquisitionNumber = "1"
    dataset.BodyPartExamined = "HEAD"
    dataset.PatientPosition = "HFS"
    dataset.PositionReferenceIndicator = ""
    dataset.FrameOfReferenceUID = subject.uid("frame of reference")
    dataset.ImagePositionPatient = _decimals(stack.position_mm(index))
    dataset.ImageOrientationPatient = _decimals([*stack.row, *stack.column])
    dataset.PixelSpacing = _decimals(stack.spacing_mm[1:])
    dataset.SliceThickness = f"{stack.spacing_mm[0]:.6g}"
    return dataset


def _enhanced(
    sop_class_uid: str, modality: str, voxels: NDArray[np.uint16], stack: Stack, subject: Subject, series: int
) -> Dataset:
    dataset = _header(sop_class_uid, modality, subject, series, subject.uid(series, "multi-frame"))
    dataset.InstanceNumber = "1"
    dataset.AcquisitionDateTime = "20240131101600"
    dataset.PatientPosition = "HFS"
    dataset.PositionReferenceIndicator = ""
    dataset.FrameOfReferenceUID = subject.uid("frame of reference")
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.ContentQualification = "RESEARCH"
    dataset.AcquisitionContextSequence = []

    organization = Dataset()
    organization.DimensionOrganizationUID = subject.uid(series, "dimension")
    dataset.DimensionOrganizationSequence = [organization]
    index_item = Dataset()
    index_item.DimensionOrganizationUID = organization.DimensionOrganizationUID
    index_item.DimensionIndexPointer = 0x00200032
    index_item.FunctionalGroupPointer = 0x00209113
    dataset.DimensionIndexSequence = [index_item]

    shared = Dataset()
    measures = Dataset()
    measures.PixelSpacing = _decimals(stack.spacing_mm[1:])
    measures.SliceThickness = f"{stack.spacing_mm[0]:.6g}"
    shared.PixelMeasuresSequence = [measures]
    orientation = Dataset()
    orientation.ImageOrientationPatient = _decimals([*stack.row, *stack.column])
    shared.PlaneOrientationSequence = [orientation]
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [_code("69536005", "SCT", "Head")]
    anatomy.FrameLaterality = "U"
    shared.FrameAnatomySequence = [anatomy]
    dataset.SharedFunctionalGroupsSequence = [shared]

    frames = []
    for index in range(voxels.shape[0]):
        frame = Dataset()
        position = Dataset()
        position.ImagePositionPatient = _decimals(stack.position_mm(index))
        frame.PlanePositionSequence = [position]
        content = Dataset()
        content.FrameAcquisitionDateTime = "20240131101600"
        content.FrameReferenceDateTime = "20240131101600"
        content.FrameAcquisitionDuration = 1000.0
        content.StackID = "1"
        content.InStackPositionNumber = index + 1
        content.DimensionIndexValues = index + 1
        frame.FrameContentSequence = [content]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames

    _set_pixels(dataset, voxels, bits_stored=12, signed=False)
    dataset.NumberOfFrames = str(voxels.shape[0])
    return dataset


def _frame_type(dataset: Dataset) -> Dataset:
    item = Dataset()
    item.FrameType = list(dataset.ImageType)
    item.PixelPresentation = "MONOCHROME"
    item.VolumetricProperties = "VOLUME"
    item.VolumeBasedCalculationTechnique = "NONE"
    return item


def _add_mr_description(dataset: Dataset) -> None:
    dataset.PixelPresentation = "MONOCHROME"
    dataset.VolumetricProperties = "VOLUME"
    dataset.VolumeBasedCalculationTechnique = "NONE"
    dataset.ComplexImageComponent = "MAGNITUDE"
    dataset.AcquisitionContrast = "T1"


def _add_dx(dataset: Dataset) -> None:
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageLaterality = "U"
    dataset.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    dataset.PositionerType = ""
    dataset.DetectorType = "DIRECT"
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1
    dataset.RescaleIntercept = "0"
    dataset.RescaleSlope = "1"
    dataset.RescaleType = "US"
    dataset.LossyImageCompression = "00"
    dataset.BurnedInAnnotation = "NO"
    dataset.WindowCenter = "1600"
    dataset.WindowWidth = "3000"
    dataset.AcquisitionContextSequence = []
    view = _code("399348003", "SCT", "postero-anterior")
    view.ViewModifierCodeSequence = []
    dataset.ViewCodeSequence = [view]
    dataset.PatientOrientation = dataset.PatientOrientation or ""


def _set_pixels(dataset: Dataset, pixels: NDArray[np.uint16], bits_stored: int, signed: bool) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.BitsAllocated = 16
    dataset.BitsStored = bits_stored
    dataset.HighBit = bits_stored - 1
    dataset.PixelRepresentation = int(signed)
    dataset.add_new("PixelData", "OW", np.ascontiguousarray(pixels).astype("<u2").tobytes())


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def _decimals(values: Iterable[float]) -> list[str]:
    """Decimal strings of at most 16 characters (PS3.5 section 6.2)."""
    return [f"{float(value):.8g}" for value in values]
