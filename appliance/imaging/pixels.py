"""Stored pixel values → physical values: junk bits, sign, padding, modality LUT."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from appliance.errors import UnsuitableImage

MAX_PIXELS = 512 * 1024 * 1024
"""Most samples that one image may have: beyond it a header is taken to be damaged or hostile."""


def check_pixel_module(dataset: Dataset) -> None:
    """Refuse what is no single-channel image of believable size (PS3.3 section C.7.6.3).

    Raises
    ------
    UnsuitableImage
        ``no-pixel-data``, ``colour``, ``malformed-header``, ``too-large``.
    """
    missing = [
        keyword for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
        if dataset.get(keyword) is None
    ]  # fmt: skip
    if missing:
        raise UnsuitableImage(
            "malformed-header", "the image lacks attributes of its pixel module", found=f"no {', '.join(missing)}"
        )
    if dataset.get("SamplesPerPixel", 1) != 1 or dataset.get("PhotometricInterpretation", "") not in (
        "MONOCHROME1",
        "MONOCHROME2",
    ):
        raise UnsuitableImage(
            "colour", "the image is not monochrome", found=str(dataset.get("PhotometricInterpretation", "nothing"))
        )
    frames = frame_count(dataset)
    if min(dataset.Rows, dataset.Columns, frames) < 1 or dataset.Rows * dataset.Columns * frames > MAX_PIXELS:
        raise UnsuitableImage(
            "too-large",
            "the image has no believable size",
            found=f"{dataset.Rows} × {dataset.Columns} × {frames}",
            expected=f"1 to {MAX_PIXELS} pixels",
        )
    if dataset.BitsAllocated not in (8, 16, 32) or not 1 <= dataset.BitsStored <= dataset.BitsAllocated:
        raise UnsuitableImage(
            "malformed-header",
            "the pixel depth is not one of DICOM's",
            found=f"{dataset.BitsStored} bits stored in {dataset.BitsAllocated}",
        )


def frame_count(dataset: Dataset) -> int:
    """Number of Frames (0028,0008), 1 when absent or empty."""
    return int(dataset.get("NumberOfFrames") or 1)


def stored_values(dataset: Dataset, raw: memoryview, pixel_offset: int | None) -> NDArray[Any]:
    """Return the stored values ``[frame, row, column]`` of a monochrome image.

    Parameters
    ----------
    dataset
        The header, read with ``stop_before_pixels``.
    raw
        The whole file.
    pixel_offset
        Where native pixel values begin in ``raw``; ``None`` for encapsulated ones, which pydicom then decodes.

    Raises
    ------
    UnsuitableImage
        ``truncated``, ``undecodable``.
    """
    shape = (frame_count(dataset), int(dataset.Rows), int(dataset.Columns))
    if pixel_offset is None:
        return _decoded(raw, shape)
    count = shape[0] * shape[1] * shape[2]
    syntax = dataset.file_meta.TransferSyntaxUID
    kind = "i" if dataset.PixelRepresentation else "u"
    dtype = np.dtype(f"{'<' if syntax.is_little_endian else '>'}{kind}{dataset.BitsAllocated // 8}")
    if len(raw) - pixel_offset < count * dtype.itemsize:
        raise UnsuitableImage(
            "truncated",
            "the pixel data are shorter than the header says",
            found=f"{len(raw) - pixel_offset} bytes",
            expected=f"{count * dtype.itemsize}",
            mend="Send the image again",
        )
    values = np.frombuffer(raw, dtype, count, pixel_offset).reshape(shape)
    return _without_junk_bits(values, dataset)


def _decoded(raw: memoryview, shape: tuple[int, int, int]) -> NDArray[Any]:
    try:
        values = pixel_array(BytesIO(raw), raw=True)
    except (InvalidDicomError, ValueError, RuntimeError, NotImplementedError, AttributeError, TypeError, OSError,
            EOFError, KeyError, IndexError) as error:  # fmt: skip
        # What decoders raise on damaged code streams is as various as the decoders.
        raise UnsuitableImage(
            "undecodable",
            "the compressed pixel data cannot be decoded",
            found=type(error).__name__,
            mend="Send the image again, uncompressed if it fails again",
        ) from error
    if values.size != shape[0] * shape[1] * shape[2]:
        raise UnsuitableImage("undecodable", "the decoded image has another size than its header says")
    return np.asarray(values.reshape(shape))


def _without_junk_bits(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Clear, or fill with the sign, the bits above Bits Stored: some devices keep overlays or garbage there."""
    unused = int(dataset.BitsAllocated) - int(dataset.BitsStored)
    if unused == 0 or int(dataset.get("HighBit", dataset.BitsStored - 1)) != dataset.BitsStored - 1:
        return values
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    if dataset.PixelRepresentation:
        return np.asarray((native << unused) >> unused)
    return np.asarray(native & np.array((1 << int(dataset.BitsStored)) - 1, native.dtype))


def is_native(syntax: UID) -> bool:
    """Whether pixel values lie in the file as they are."""
    return not syntax.is_encapsulated and not syntax.is_deflated


def physical_values(
    stored: NDArray[Any], dataset: Dataset, slope: float, intercept: float, *, padding_is_bright: bool = False
) -> NDArray[np.float32]:
    """Apply the modality LUT (PS3.3 section C.11.1) and give padding the darkest (or brightest) value of the image.

    Parameters
    ----------
    stored
        Stored values ``[..., row, column]``.
    slope, intercept
        The rescale of these frames; a Modality LUT Sequence in the data set goes before them.
    """
    if "ModalityLUTSequence" in dataset:
        values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float32)
    else:
        values = stored.astype(np.float32)
        if slope != 1.0:
            values *= np.float32(slope)
        if intercept != 0.0:
            values += np.float32(intercept)
    padding = dataset.get("PixelPaddingValue")
    if padding is not None:
        limit = dataset.get("PixelPaddingRangeLimit", padding)
        low, high = sorted((int(padding), int(limit)))
        padded = (stored >= low) & (stored <= high)
        if padded.any() and not padded.all():
            valid = values[~padded]
            values[padded] = valid.max() if padding_is_bright else valid.min()
    return values
