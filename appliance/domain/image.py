"""Images as the models see them: decoded, in physical units, placed in the patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.domain.geometry import Grid


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """Where one slice came from: an instance, and the frame in it when it is multi-frame.

    ``frame_number`` counts from 1 (PS3.3 section 10.3) and is ``None`` for a single-frame instance.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ImageVolume:
    """A stack of parallel slices, ordered by position.

    Attributes
    ----------
    voxels
        float32 ``[slice, row, column]`` after the modality LUT: HU for CT, arbitrary units for MR. Read-only.
    grid
        Where the voxels lie.
    frames
        The source of each slice, in the order of the first axis.
    frame_of_reference_uid
        UID of the coordinate system, or ``None`` when the images name none.
    modality
        The value of (0008,0060).
    contrast_agent
        Whether an image names a contrast agent: Contrast/Bolus Agent (0018,0010) or its sequence (0018,0012).
    """

    voxels: NDArray[np.float32]
    grid: Grid
    frames: tuple[SourceFrame, ...]
    frame_of_reference_uid: str | None
    modality: str
    contrast_agent: bool = False

    def __post_init__(self) -> None:
        if self.voxels.shape != self.grid.shape or len(self.frames) != self.grid.shape[0]:
            raise ValueError(
                f"voxels {self.voxels.shape}, grid {self.grid.shape} and {len(self.frames)} frames must agree"
            )
        self.voxels.flags.writeable = False


@dataclass(frozen=True, slots=True, eq=False)
class ProjectionImage:
    """One radiograph.

    Attributes
    ----------
    pixels
        float32 ``[row, column]`` after the modality LUT; larger is brighter (MONOCHROME1 is inverted). Read-only.
    pixel_spacing_mm
        Row and column spacing in mm in the plane of the patient, or ``None`` when no honest figure exists.
    spacing_note
        Where the spacing comes from, or why there is none, in words a report can show.
    patient_orientation
        (0020,0020): patient directions of the row and of the column axis, such as ``("L", "F")``; ``None`` when the
        image does not say.
    frame
        The source.
    modality
        The value of (0008,0060).
    """

    pixels: NDArray[np.float32]
    pixel_spacing_mm: tuple[float, float] | None
    spacing_note: str
    patient_orientation: tuple[str, str] | None
    frame: SourceFrame
    modality: str

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2:
            raise ValueError(f"pixels must be [row, column], has {self.pixels.ndim} axes")
        self.pixels.flags.writeable = False


Image = ImageVolume | ProjectionImage
