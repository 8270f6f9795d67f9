"""InVesalius projects as images: the one CT head that every Debian machine can get is such a file (a golden case)."""

from __future__ import annotations

import plistlib
import tarfile
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np

from appliance.domain.geometry import Grid
from appliance.domain.image import ImageVolume, SourceFrame
from appliance.domain.uids import derived_uid
from appliance.errors import ModelPackageError

_AXIAL = 1
_MAX_BYTES = 1 << 30


def read_invesalius(path: Path, modality: str) -> ImageVolume:
    """Read the volume of an InVesalius project, whose SHA-256 has been checked, as a scanner would have sent it.

    A project (``.inv3``) is a compressed tar with ``main.plist`` and the voxels, int16 ``[slice, row, column]`` in HU.
    It has no place in the patient but its order: slices from the feet up, rows from the back forward, columns from the
    patient's right to the left, as InVesalius shows them.

    Raises
    ------
    ModelPackageError
        It is no such project, or not one of axial slices.
    """
    try:
        with tarfile.open(path, "r:gz") as project:
            members = {Path(member.name).name: member for member in project if member.isfile()}
            main = plistlib.loads(_content(project, members["main.plist"]))
            matrix, spacing = main["matrix"], [float(value) for value in main["spacing"]]
            voxels = np.frombuffer(_content(project, members[matrix["filename"]]), dtype=np.dtype(matrix["dtype"]))
            voxels = voxels.reshape([int(size) for size in matrix["shape"]])
            orientation = int(main["orientation"])
    except (tarfile.TarError, ExpatError, OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ModelPackageError("a golden image is no InVesalius project", found=type(error).__name__) from error
    if orientation != _AXIAL or voxels.ndim != 3 or len(spacing) != 3:
        raise ModelPackageError("a golden image must have axial slices", found=f"orientation {orientation}")
    affine = np.eye(4)
    column_mm, row_mm, slice_mm = spacing
    affine[:3, :3] = [[0, 0, column_mm], [0, -row_mm, 0], [slice_mm, 0, 0]]
    frames = tuple(
        SourceFrame("1.2.840.10008.5.1.4.1.1.2", derived_uid("golden", path.name, str(index)))
        for index in range(voxels.shape[0])
    )
    return ImageVolume(voxels.astype(np.float32), Grid(voxels.shape, affine), frames, None, modality)


def _content(project: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: Any = project.extractfile(member)
    if member.size > _MAX_BYTES:
        raise ValueError("a member that is too large")
    return bytes(file.read())
