"""From physical values to grey levels for a picture (PS3.3 section C.11.2)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

# A window of the source is taken when the picture is neither black nor white nor flat in it.
_LEAST_INSIDE: Final = 0.02
_LEAST_CONTRAST: Final = 0.15
_SAMPLES: Final = 40_000


def grey_levels(pixels: NDArray[np.float32], window: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Map values to 0…255.

    Parameters
    ----------
    pixels
        ``[row, column]`` after the modality LUT, larger is brighter.
    window
        Center and width that the source is sent with; ``None``, or one in which little can be seen, gives way to the
        range from the 0.5 to the 99.5 percentile.
    """
    # A regular sample of a large radiograph tells its percentiles as well as all of it.
    step = max(1, int((pixels.size / _SAMPLES) ** 0.5))
    sample = pixels[::step, ::step]
    low, high = (float(value) for value in np.percentile(sample, (0.5, 99.5)))
    if window is not None:
        center, width = window
        window_low, window_high = center - width / 2, center + width / 2
        inside = float(np.mean((sample > window_low) & (sample < window_high)))
        if inside >= _LEAST_INSIDE and high - low >= _LEAST_CONTRAST * width:
            low, high = window_low, window_high
    scale = 255.0 / max(high - low, 1e-6)
    levels: NDArray[np.uint8] = np.clip((pixels - low) * scale, 0.0, 255.0).astype(np.uint8)
    return levels
