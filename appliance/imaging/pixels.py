"""Stored pixel values → physical values: junk bits, sign, padding, modality LUT."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, JPEGLSLossless, JPEGLSNearLossless

from appliance.errors import UnsuitableImage
from appliance.imaging.code_streams import check_frame

_DECODER = {JPEGLSLossless: "pyjpegls", JPEGLSNearLossless: "pyjpegls"}
"""Plug-in of pydicom, where it would try another first: libjpeg takes three times as long for JPEG-LS, and makes some
image of a damaged code stream, where CharLS says that it is damaged."""

MAX_PIXELS = 512 * 1024 * 1024
"""Most samples that one image may have: beyond it a header is taken to be damaged or hostile."""


def check_pixel_module(dataset: Dataset) -> None:
    """Refuse what is no single-channel image of believable size (PS3.3 section C.7.6.3).

    Raises
    ------
    UnsuitableImage
        ``colour``, ``malformed-header``, ``too-large``.
    """
    missing = [
        keyword for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
        if dataset.get(keyword) is None
    ]  # fmt: skip
    if missing:
        raise UnsuitableImage(
            "malformed-header", "the image lacks attributes of its pixel module", found=f"no {', '.join(missing)}"
        )
    photometric = str(dataset.get("PhotometricInterpretation", "nothing"))
    # Enhanced images may be grey up to a value from which on a palette colours them (PS3.3 section C.8.16.2.1.1).
    presentation = dataset.get("PixelPresentation")
    if (
        dataset.get("SamplesPerPixel", 1) != 1
        or photometric not in ("MONOCHROME1", "MONOCHROME2")
        or presentation in ("COLOR", "MIXED")
    ):
        raise UnsuitableImage(
            "colour", "the image is not monochrome", found=photometric, mend="Send the images that it was made from"
        )
    frames = frame_count(dataset)
    if min(dataset.Rows, dataset.Columns, frames) < 1 or dataset.Rows * dataset.Columns * frames > MAX_PIXELS:
        raise UnsuitableImage(
            "too-large",
            "the image has no believable size",
            found=f"{dataset.Rows} × {dataset.Columns} × {frames}",
            expected=f"1 to {MAX_PIXELS} pixels",
        )
    if (
        dataset.BitsAllocated not in (8, 16, 32)
        or not 1 <= dataset.BitsStored <= dataset.BitsAllocated
        or not dataset.BitsStored - 1 <= _high_bit(dataset) < dataset.BitsAllocated
        or dataset.PixelRepresentation not in (0, 1)
    ):
        raise UnsuitableImage(
            "malformed-header",
            "the pixel depth is not one of DICOM's",
            found=f"{dataset.BitsStored} bits stored in {dataset.BitsAllocated}, high bit {_high_bit(dataset)}",
        )


def frame_count(dataset: Dataset) -> int:
    """Number of Frames (0028,0008), 1 when absent or empty."""
    return int(dataset.get("NumberOfFrames") or 1)


def _high_bit(dataset: Dataset) -> int:
    high_bit = dataset.get("HighBit")
    return int(dataset.BitsStored) - 1 if high_bit is None else int(high_bit)


def stored_values(dataset: Dataset, raw: memoryview, native: memoryview | None) -> NDArray[Any]:
    """Return the stored values ``[frame, row, column]`` of a monochrome image.

    Parameters
    ----------
    dataset
        The header, read with ``stop_before_pixels``.
    raw
        The whole file.
    native
        The value of Pixel Data, little endian and not compressed; ``None`` when pydicom has to decode it.

    Raises
    ------
    UnsuitableImage
        ``truncated``, ``undecodable``, ``no-pixel-data`` of a deflated file without any.
    """
    shape = (frame_count(dataset), int(dataset.Rows), int(dataset.Columns))
    if native is None:
        return _decoded(raw, shape)
    count = shape[0] * shape[1] * shape[2]
    dtype = np.dtype(f"<{'i' if dataset.PixelRepresentation else 'u'}{dataset.BitsAllocated // 8}")
    if len(native) < count * dtype.itemsize:
        raise UnsuitableImage(
            "truncated",
            "the pixel data are shorter than the header says",
            found=f"{len(native)} bytes",
            expected=f"{count * dtype.itemsize}",
            mend="Send the image again",
        )
    values = np.frombuffer(native, dtype, count).reshape(shape)
    return _without_junk_bits(values, dataset)


def _decoded(raw: memoryview, shape: tuple[int, int, int]) -> NDArray[Any]:
    try:
        # Read again, with the pixels: given the stream itself, pydicom looks for the pixels of a deflated file in the
        # bytes before inflation.
        dataset = dcmread(BytesIO(raw))
        if "PixelData" not in dataset:
            raise no_pixel_data()
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            _check_frames(dataset, shape)
        plugin = _DECODER.get(dataset.file_meta.TransferSyntaxUID, "")
        values = pixel_array(dataset, raw=True, decoding_plugin=plugin)
    except (InvalidDicomError, ValueError, RuntimeError, NotImplementedError, AttributeError, TypeError, OSError,
            EOFError, LookupError, ArithmeticError, struct.error, zlib.error) as error:  # fmt: skip
        # What decoders raise on damaged code streams is as various as the decoders.
        raise _undecodable(error) from error
    except BaseException as error:
        # A panic in the Rust of pylibjpeg-rle is no Exception, and would end the worker; it cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise _undecodable(error) from error
    if values.size != shape[0] * shape[1] * shape[2]:
        raise UnsuitableImage("undecodable", "the decoded image has another size than its header says")
    return np.asarray(values.reshape(shape))


def _undecodable(error: BaseException) -> UnsuitableImage:
    return UnsuitableImage(
        "undecodable",
        "the pixel data cannot be decoded",
        found=type(error).__name__,
        mend="Send the image again, uncompressed if it fails again",
    )


def _check_frames(dataset: Dataset, shape: tuple[int, int, int]) -> None:
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    for frame in generate_frames(dataset.PixelData, number_of_frames=shape[0], extended_offsets=offsets):
        check_frame(frame, (shape[1], shape[2], 1))


def no_pixel_data() -> UnsuitableImage:
    """The error for an object that is no image."""
    return UnsuitableImage(
        "no-pixel-data", "the object has no pixel data", mend="Route images to the appliance, not reports"
    )


def _without_junk_bits(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Only the bits of the sample, its sign extended: some devices keep overlays or garbage in the other bits.

    The sample ends at High Bit (PS3.5 section 8.1.1).
    """
    unused = int(dataset.BitsAllocated) - int(dataset.BitsStored)
    if unused == 0:
        return values
    above = int(dataset.BitsAllocated) - 1 - _high_bit(dataset)
    return np.asarray((values << above) >> unused)


def is_native(syntax: UID) -> bool:
    """Whether pixel values lie in the file as numpy reads them; explicit big endian is retired and left to pydicom."""
    return bool(not syntax.is_encapsulated and not syntax.is_deflated and syntax.is_little_endian)


def physical_values(
    stored: NDArray[Any], dataset: Dataset, slope: float, intercept: float, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Apply the modality LUT (PS3.3 section C.11.1); padding (section C.7.5.1.1.2) becomes NaN, see ``fill_padding``.

    Parameters
    ----------
    stored
        Stored values ``[..., row, column]``.
    slope, intercept
        The rescale of these frames; a Modality LUT Sequence in the data set goes before them.
    out
        Where the values go, and what is returned; a new array when it is left out.
    """
    values = np.empty(stored.shape, dtype=np.float32) if out is None else out
    if "ModalityLUTSequence" in dataset:
        values[...] = apply_modality_lut(stored, dataset)
    else:
        values[...] = stored
        if slope != 1.0:
            values *= np.float32(slope)
        if intercept != 0.0:
            values += np.float32(intercept)
    padding = _as_sample(dataset.get("PixelPaddingValue"), stored.dtype)
    if padding is not None:
        limit = _as_sample(dataset.get("PixelPaddingRangeLimit"), stored.dtype)
        low, high = sorted((padding, padding if limit is None else limit))
        is_padding = stored == low if low == high else (stored >= low) & (stored <= high)
        np.copyto(values, np.nan, where=is_padding)
    return values


def fill_padding(values: NDArray[np.float32], *, bright: bool = False) -> None:
    """Give padding (NaN) the darkest, or the brightest, value of the image, in place.

    What is outside of the patient then looks like air to a model, not like a value that no tissue has.

    Raises
    ------
    UnsuitableImage
        ``constant-image`` when all of it is padding.
    """
    # Plane by plane, which the processor's cache holds, and only those that have padding a second time.
    planes = values if values.ndim > 2 else values[np.newaxis]
    choose = np.fmax if bright else np.fmin
    extremes = [plane.max() if bright else plane.min() for plane in planes]  # NaN where there is padding
    padded = [number for number, extreme in enumerate(extremes) if np.isnan(extreme)]
    for number in padded:
        extremes[number] = choose.reduce(planes[number], axis=None)
    extreme = choose.reduce(extremes)
    if np.isnan(extreme):
        raise UnsuitableImage("constant-image", "the image has no contrast", found="nothing but padding")
    for number in padded:
        np.copyto(planes[number], extreme, where=np.isnan(planes[number]))


def _as_sample(value: Any, dtype: np.dtype[Any]) -> int | None:
    """A padding value as the samples have it; ``None`` when there is none that can be used.

    Headers give it with the wrong sign (US for signed samples) often enough, and implicit VR does not tell.
    """
    if isinstance(value, bytes) and len(value) == 2:
        value = int.from_bytes(value, "little")
    if not isinstance(value, int):
        return None
    return int(np.array(value & ((1 << 8 * dtype.itemsize) - 1), dtype=f"u{dtype.itemsize}").astype(dtype))
