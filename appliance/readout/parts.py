"""Operations on masks whose distances are those in the patient: thick, tilted and varying slices included."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.domain.geometry import Grid

_Mask = NDArray[np.bool_]


def bounding_box(mask: _Mask, margin: int = 0) -> tuple[slice, ...] | None:
    """The smallest box around a mask, with a margin where the grid has room; ``None`` when it is empty."""
    box = []
    for axis, size in enumerate(mask.shape):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if occupied.size == 0:
            return None
        box.append(slice(max(0, int(occupied[0]) - margin), min(size, int(occupied[-1]) + 1 + margin)))
    return tuple(box)


def eroded(mask: _Mask, grid: Grid, distance_mm: float) -> _Mask:
    """The voxels of a mask that are farther than a distance from each voxel outside of it.

    In its plane the distance is that of the centres. Between slices it is that of their faces, so that slices which
    touch are at none: the surface of what was outlined runs somewhere between them, and their voxels hold some of what
    is outside. Beyond the first and the last slice of the stack nothing is known, and nothing taken away.

    Parameters
    ----------
    mask
        bool ``[slice, row, column]`` on ``grid``.
    """
    box = bounding_box(mask, margin=1)
    if box is None or distance_mm <= 0:
        return mask
    inside = mask[box]
    depths = np.array([_depth_mm(plane, grid.spacing_mm[1:]) for plane in inside])
    offsets = np.rint(grid.in_plane_offsets[box[0]]).astype(int)
    widths_mm = grid.slice_widths_mm[box[0]]
    kept = depths > distance_mm
    for index in range(len(inside)):
        for direction in (-1, 1):
            gap_mm, other = 0.0, index + direction
            while 0 <= other < len(inside) and gap_mm < distance_mm:
                covered = depths[other] > math.sqrt(distance_mm**2 - gap_mm**2)
                kept[index] &= _shifted(covered, *(offsets[index] - offsets[other]).tolist())
                gap_mm += float(widths_mm[other])
                other += direction
    result = np.zeros_like(mask)
    result[box] = kept
    return result


def without_small_parts(mask: _Mask, grid: Grid, least_ml: float) -> _Mask:
    """The parts of a mask (voxels that touch by faces) of at least a volume."""
    box = bounding_box(mask)
    if box is None or least_ml <= 0:
        return mask
    inside = mask[box]
    offsets = np.rint(grid.in_plane_offsets[box[0]]).astype(int)
    offsets -= offsets.min(axis=0)
    extra_rows, extra_columns = offsets.max(axis=0).tolist()
    # A tilt moves what lies above each other to other rows: neighbours are sought with the slices moved back.
    straight = np.zeros((len(inside), inside.shape[1] + extra_rows, inside.shape[2] + extra_columns), dtype=np.bool_)
    windows = [
        (slice(row, row + inside.shape[1]), slice(column, column + inside.shape[2])) for row, column in offsets.tolist()
    ]
    for plane, window, source in zip(straight, windows, inside, strict=True):
        plane[window] = source
    parts, count = ndimage.label(straight)
    volumes_mm3 = grid.voxel_volumes_mm3[box[0]]
    sizes_mm3 = np.zeros(count + 1)
    for labels, volume_mm3 in zip(parts, volumes_mm3, strict=True):
        sizes_mm3 += np.bincount(labels.ravel(), minlength=count + 1) * volume_mm3
    wanted = sizes_mm3 >= least_ml * 1000.0
    wanted[0] = False  # label 0 is the background
    result = np.zeros_like(mask)
    result[box] = [wanted[labels[window]] for labels, window in zip(parts, windows, strict=True)]
    return result


def _depth_mm(plane: _Mask, pixel_mm: tuple[float, float]) -> NDArray[np.float32]:
    """Distance of each voxel to the nearest in its plane outside of the mask, as is all beyond the edge; 0 there."""
    if not plane.any():
        return np.zeros(plane.shape, dtype=np.float32)
    depth = ndimage.distance_transform_edt(np.pad(plane, 1), sampling=pixel_mm)
    return np.asarray(depth[1:-1, 1:-1], dtype=np.float32)


def _shifted(plane: _Mask, rows: int, columns: int) -> _Mask:
    """``result[r, c] = plane[r + rows, c + columns]``; what comes from outside is ``False``."""
    result = np.zeros_like(plane)
    height, width = plane.shape
    if abs(rows) < height and abs(columns) < width:
        result[max(0, -rows) : height - max(0, rows), max(0, -columns) : width - max(0, columns)] = plane[
            max(0, rows) : height - max(0, -rows), max(0, columns) : width - max(0, -columns)
        ]
    return result
