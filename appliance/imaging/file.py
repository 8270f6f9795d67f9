"""One DICOM file, read once: its header, and where its pixels are."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from appliance.errors import UnsuitableImage
from appliance.imaging.pixels import check_pixel_module, is_native, no_pixel_data

_PIXEL_DATA = (0x7FE0, 0x0010)


@dataclass(frozen=True, slots=True, eq=False)
class ImageFile:
    """A DICOM image file in memory.

    Attributes
    ----------
    dataset
        Everything before the pixel data, file meta information included.
    raw
        The whole file.
    native
        The value of Pixel Data where it is little endian and not compressed, as long as the file has it; ``None``
        where pydicom has to decode it.
    """

    dataset: Dataset
    raw: memoryview
    native: memoryview | None


def read_image_file(path: Path) -> ImageFile:
    """Read a file of the spool.

    Raises
    ------
    UnsuitableImage
        ``unreadable``, ``no-pixel-data``, ``unsupported-transfer-syntax`` and the reasons of ``check_pixel_module``.
    OSError
        The file is not there, or the disk fails.
    """
    content = path.read_bytes()
    stream = BytesIO(content)
    try:
        dataset = dcmread(stream, stop_before_pixels=True)
        syntax = UID(dataset.file_meta.TransferSyntaxUID)
    except (InvalidDicomError, BytesLengthException, AttributeError, ValueError, EOFError, OSError, KeyError, TypeError,
            NotImplementedError, RecursionError, struct.error, zlib.error) as error:  # fmt: skip
        # Sequences within sequences are read by recursion.
        raise UnsuitableImage("unreadable", "the file cannot be read as DICOM", found=type(error).__name__) from error
    _check_syntax(syntax)
    raw = memoryview(content)
    # pydicom stopped before the element that it was told not to read: look whether that is the pixel data. Of a
    # deflated file it read another stream, so there the decoder finds out.
    native = None if syntax.is_deflated else _native_value(raw, stream.tell(), syntax)
    with malformed_header():
        check_pixel_module(dataset)
    return ImageFile(dataset, raw, native if is_native(syntax) else None)


@contextmanager
def malformed_header() -> Iterator[None]:
    """Refuse the image when a value of its header cannot be understood: pydicom converts values on first use.

    Raises
    ------
    UnsuitableImage
        ``malformed-header``; the text of the cause may hold the value, so it is not repeated.
    """
    try:
        yield
    except (BytesLengthException, ArithmeticError, AttributeError, LookupError, NotImplementedError, RecursionError,
            TypeError, ValueError, struct.error) as error:  # fmt: skip
        raise UnsuitableImage(
            "malformed-header",
            "a value in the header cannot be understood",
            found=type(error).__name__,
            mend="Check the header with dciodvfy, and what wrote it",
        ) from error


def _check_syntax(syntax: UID) -> None:
    """Only what a decoder is installed for: images are taken in with any transfer syntax that was negotiated."""
    try:
        if get_decoder(syntax).is_available:
            return
    except NotImplementedError:
        pass
    raise UnsuitableImage(
        "unsupported-transfer-syntax",
        "the pixel data are encoded in a way that cannot be decoded here",
        # The name of what DICOM does not know is the value itself, which may be anything.
        found=syntax.name if syntax.name != str(syntax) else "a private transfer syntax, or none",
        mend="Send the image uncompressed, or in JPEG, JPEG-LS, JPEG 2000 or RLE",
    )


def _native_value(raw: memoryview, offset: int, syntax: UID) -> memoryview:
    """The bytes of Pixel Data, whose element begins at ``offset``; fewer than its length says if the file ends."""
    order = "<" if syntax.is_little_endian else ">"
    header = 8 if syntax.is_implicit_VR else 12
    element = raw[offset : offset + header].tobytes().ljust(header, b"\0")
    if struct.unpack_from(f"{order}HH", element) != _PIXEL_DATA:
        raise no_pixel_data()
    (length,) = struct.unpack_from(f"{order}I", element, header - 4)
    return raw[offset + header : offset + header + length]
