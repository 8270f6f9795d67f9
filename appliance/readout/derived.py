"""Structures that are parts of others, chosen by the values of the source image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.domain.image import ImageVolume
from appliance.manifest.readout import DerivedSpec, StructureSpec
from appliance.readout.parts import bounding_box, eroded, without_small_parts


def derived_mask(within: NDArray[np.bool_], image: ImageVolume, spec: DerivedSpec) -> NDArray[np.bool_]:
    """Return the voxels of ``within`` that ``spec`` chooses; may be empty.

    Parameters
    ----------
    within
        bool ``[slice, row, column]`` on the grid of ``image``.
    """
    inner = eroded(within, image.grid, spec.erode_mm)
    chosen = np.zeros_like(inner)
    box = bounding_box(inner)
    if box is None:
        return chosen
    row_mm, column_mm = image.grid.spacing_mm[1:]
    sigma = (spec.smooth_mm / row_mm, spec.smooth_mm / column_mm)
    for plane, inside, voxels in zip(chosen[box], inner[box], image.voxels[box], strict=True):
        values = _smoothed(voxels, inside, sigma) if spec.smooth_mm else voxels
        plane[...] = inside & (values >= spec.min) & (values <= spec.max)
    return without_small_parts(chosen, image.grid, spec.min_component_ml)


def _smoothed(
    voxels: NDArray[np.float32], inside: NDArray[np.bool_], sigma: tuple[float, float]
) -> NDArray[np.float32]:
    """A Gaussian mean of the voxels that are inside; undefined where none is near."""
    weights = ndimage.gaussian_filter(inside.astype(np.float32), sigma, mode="constant", truncate=3)
    sums = ndimage.gaussian_filter(np.where(inside, voxels, np.float32(0)), sigma, mode="constant", truncate=3)
    return np.asarray(sums / np.maximum(weights, np.float32(1e-6)))


def derivation_of(structure: StructureSpec, spec: DerivedSpec, modality: str) -> str:
    """How the structure is made, in a sentence for the reader of a result."""
    unit = " HU" if modality == "CT" else ""
    words = [f"{structure.label}: the voxels from {spec.min:g} to {spec.max:g}{unit} within {spec.within}"]
    if spec.erode_mm:
        words.append(f"more than {spec.erode_mm:g} mm from its edge")
    if spec.smooth_mm:
        words.append(f"after a Gaussian of {spec.smooth_mm:g} mm in the plane")
    if spec.min_component_ml:
        words.append(f"in parts of at least {spec.min_component_ml:g} ml")
    return ", ".join(words) + "."


def withheld_because_of_contrast(structure: StructureSpec) -> str:
    """What the reader is told where a contrast agent would be taken for what is looked for."""
    return f"{structure.label}: not measured, because the images name a contrast agent."
