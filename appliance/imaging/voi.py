"""The values of interest: an image as the modality means it to be displayed (PS3.3 section C.11.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_voi


def displayed(pixels: NDArray[np.float32], dataset: Dataset) -> NDArray[np.float32]:
    """Apply the first VOI LUT or window of the image; without one, or with one that cannot be used, return ``pixels``.

    Parameters
    ----------
    pixels
        float32, after the modality LUT. Not changed.

    Returns
    -------
    numpy.ndarray
        float32, the caller's own: 0 to 1 after a window, the LUT's values after a LUT.
    """
    if dataset.get("VOILUTSequence"):
        try:
            # A LUT is indexed by whole numbers.
            return np.asarray(apply_voi(np.round(pixels).astype(np.int32), dataset), dtype=np.float32)
        except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError):
            return pixels.copy()  # a malformed LUT: the values without it are still true
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    function = dataset.get("VOILUTFunction") or "LINEAR"
    if function == "LINEAR":
        # Section C.11.2.1.2.1: a window of width w covers w - 1 steps between whole numbers.
        centre, width = centre - 0.5, width - 1
    if not (np.isfinite(centre) and 0 < width < np.inf):
        return pixels.copy()
    shown = pixels - np.float32(centre)
    if function == "SIGMOID":
        shown *= np.float32(-4 / width)
        np.clip(shown, -80, 80, out=shown)
        np.exp(shown, out=shown)
        shown += 1
        np.reciprocal(shown, out=shown)
        return shown
    shown *= np.float32(1 / width)
    shown += np.float32(0.5)
    np.clip(shown, 0, 1, out=shown)
    return shown


def _first(value: Any) -> float:
    """The first of one or more numbers, NaN when there is none."""
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return float("nan") if value is None else float(value)
