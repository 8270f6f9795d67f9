"""The outline of a mask as a thin, smooth, anti-aliased line of constant width."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from appliance.results.typeset import Color

# A blurred edge tells how far a pixel is from it: its level is the normal distribution of the distance over sigma.
_SIGMA: Final = 1.3
_LINE_PX: Final = 2.0
_SHADOW_PX: Final = 4.4
_SHADOW_OPACITY: Final = 0.55


def draw_outline(picture: Image.Image, mask: NDArray[np.bool_], color: Color, block: int = 1) -> None:
    """Draw the outline of ``mask`` into ``picture``, with a faint shadow that parts it from bright tissue.

    Parameters
    ----------
    picture
        RGB; changed in place. The mask is stretched to its size.
    mask
        bool ``[row, column]``.
    block
        How many pixels of the mask, in both directions, are averaged before it is stretched.
    """
    extent = Image.fromarray(mask.view(np.uint8)).getbbox()
    if extent is None:
        return
    # Only the surroundings of the mask are worked on. The border of two mask pixels keeps the line whole where the
    # mask touches the edge of the image.
    left, top = extent[0] // block - 2, extent[1] // block - 2
    right, bottom = -(-extent[2] // block) + 2, -(-extent[3] // block) + 2
    within = mask[(top + 2) * block : (bottom - 2) * block, (left + 2) * block : (right - 2) * block]
    padded = np.zeros(((bottom - top) * block, (right - left) * block), dtype=np.uint8)
    padded[2 * block :, 2 * block :][: within.shape[0], : within.shape[1]] = within * np.uint8(255)
    coverage = Image.fromarray(padded).reduce(block)
    scale_x = picture.width / math.ceil(mask.shape[1] / block)
    scale_y = picture.height / math.ceil(mask.shape[0] / block)
    box = (
        math.floor(left * scale_x),
        math.floor(top * scale_y),
        math.ceil(right * scale_x),
        math.ceil(bottom * scale_y),
    )
    source = (box[0] / scale_x - left, box[1] / scale_y - top, box[2] / scale_x - left, box[3] / scale_y - top)
    if scale_x != 1 or scale_y != 1:
        coverage = _stretched(coverage, (box[2] - box[0], box[3] - box[1]), source, max(scale_x, scale_y))
    field = coverage.point(_BINARY).filter(ImageFilter.GaussianBlur(_SIGMA))
    picture.paste((0, 0, 0), box, field.point(_SHADOW))
    picture.paste(color, box, field.point(_LINE))


def _stretched(
    coverage: Image.Image, size: tuple[int, int], source: tuple[float, float, float, float], scale: float
) -> Image.Image:
    """The part ``source`` of the mask at the size of the picture."""
    stretched = coverage.transform(size, Image.Transform.EXTENT, data=source, resample=Image.Resampling.BILINEAR)
    # Rounds the steps of voxels: by less than half a voxel, so the line stays where the mask ends.
    return stretched.filter(ImageFilter.GaussianBlur(scale * 0.7)) if scale > 1 else stretched


def _opacity_of_level(width_px: float, opacity: float) -> list[int]:
    """Table from the level of the blurred edge to the opacity of a line of ``width_px`` along it."""
    normal = NormalDist()
    table = []
    for level in range(256):
        distance = abs(normal.inv_cdf(min(max(level / 255, 1e-6), 1 - 1e-6))) * _SIGMA
        table.append(round(255 * opacity * min(max(width_px / 2 + 0.5 - distance, 0.0), 1.0)))
    return table


_BINARY: Final = [0] * 128 + [255] * 128
_LINE: Final = _opacity_of_level(_LINE_PX, 1.0)
_SHADOW: Final = _opacity_of_level(_SHADOW_PX, _SHADOW_OPACITY)
