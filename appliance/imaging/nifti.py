"""NIfTI volumes as images: golden cases come so, patients' images never do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from appliance.domain.geometry import Grid
from appliance.domain.image import ImageVolume, SourceFrame
from appliance.domain.uids import derived_uid
from appliance.errors import ModelPackageError


def read_nifti(path: Path, modality: str) -> ImageVolume:
    """Read a NIfTI volume, whose SHA-256 has been checked, as the image that a scanner would have sent.

    Its slices are those of the file's third axis. NIfTI counts millimetres to the patient's right and front, DICOM to
    the left and back: the first two coordinates change sign (NIfTI-1, "3D image orientation and location in space").

    Raises
    ------
    ModelPackageError
        It is no NIfTI volume of three axes.
    """
    import nibabel  # large, and needed only when a model is verified

    try:
        image = nibabel.load(path)
        voxels = np.asarray(image.dataobj, dtype=np.float32)  # type: ignore[attr-defined]
        to_ras = np.asarray(image.affine, dtype=np.float64)  # type: ignore[attr-defined]
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise ModelPackageError("a golden image is no NIfTI volume", found=str(error)[:200]) from error
    if voxels.ndim != 3:
        raise ModelPackageError("a golden image must have three axes", found=f"shape {voxels.shape}")
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ to_ras
    grid = Grid(voxels.shape[::-1], to_lps[:, [2, 1, 0, 3]])
    frames = tuple(
        SourceFrame("1.2.840.10008.5.1.4.1.1.4", derived_uid("golden", path.name, str(index)))
        for index in range(voxels.shape[2])
    )
    return ImageVolume(np.ascontiguousarray(voxels.T), grid, frames, None, modality)
