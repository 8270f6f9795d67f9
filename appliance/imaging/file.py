"""One DICOM file, read once: its header, and where its pixels are."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError

from appliance.errors import UnsuitableImage
from appliance.imaging.pixels import check_pixel_module, is_native

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
    pixel_offset
        Where native pixel values begin in ``raw``; ``None`` when they are encapsulated or deflated.
    """

    dataset: Dataset
    raw: memoryview
    pixel_offset: int | None


def read_image_file(path: Path) -> ImageFile:
    """Read a file of the spool.

    Raises
    ------
    UnsuitableImage
        ``unreadable``, ``no-pixel-data`` and the reasons of ``check_pixel_module``.
    """
    content = path.read_bytes()
    stream = BytesIO(content)
    try:
        with warnings.catch_warnings():
            # Values that break their VR are common, and none of them is used here without a check.
            warnings.simplefilter("ignore")
            dataset = dcmread(stream, stop_before_pixels=True)
            syntax = dataset.file_meta.TransferSyntaxUID
            offset = stream.tell()
    except (InvalidDicomError, BytesLengthException, AttributeError, ValueError, EOFError, OSError, KeyError,
            NotImplementedError) as error:  # fmt: skip
        raise UnsuitableImage("unreadable", "the file cannot be read as DICOM", found=type(error).__name__) from error
    raw = memoryview(content)
    if syntax.is_deflated:
        check_pixel_module(dataset)
        return ImageFile(dataset, raw, None)
    # pydicom stopped before the element that it was told not to read: look whether that is the pixel data.
    group, element = struct.unpack_from(
        "<HH" if syntax.is_little_endian else ">HH", raw[offset : offset + 4].tobytes().ljust(4, b"\0")
    )
    if (group, element) != _PIXEL_DATA:
        raise UnsuitableImage(
            "no-pixel-data", "the object has no pixel data", mend="Route images to the appliance, not reports"
        )
    check_pixel_module(dataset)
    header = 8 if syntax.is_implicit_VR else 12
    return ImageFile(dataset, raw, offset + header if is_native(syntax) else None)
