"""A data set as a DICOM file in Explicit VR Little Endian: the bytes that pydicom writes, in a tenth of the time.

Reports and segmentations are thousands of small elements in sequences, nearly all of them ASCII text. pydicom spends
most of its time on questions that have one answer here: which byte order, which character set, which of two VRs.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from typing import Any, Final

from pydicom.charset import default_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

_PREAMBLE: Final = bytes(128) + b"DICM"
_ITEM: Final = struct.Struct("<HHL")
_SHORT: Final = struct.Struct("<HH2sH")
_LONG: Final = struct.Struct("<HH2sHL")
_LONGEST_SHORT: Final = 0xFFFF
# What pads a value to an even length (PS3.5 section 6.2), for each VR of text that is written here.
_PADDING: Final = {
    **dict.fromkeys(("AE", "AS", "CS", "DS", "IS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"), b" "),
    "UI": b"\0",
}
_NUMBER: Final = {"FD": "d", "UL": "L", "US": "H"}
# VRs whose length takes four bytes (PS3.5 section 7.1.2).
_LONG_VRS: Final = frozenset(("SQ", "UC", "UR", "UT"))


class _Unusual(Exception):
    """An element with something in it that these few lines do not know: pydicom writes it."""


def encoded_file(dataset: Dataset) -> bytes:
    """Encode ``dataset`` as a file (PS3.10 section 7).

    Parameters
    ----------
    dataset
        Its ``file_meta`` names Explicit VR Little Endian. Elements that are not parsed yet are in that encoding, and
        in the character set of the data set: they are written as they are.

    Raises
    ------
    ValueError, TypeError, AttributeError, NotImplementedError, OSError
        The file meta information lacks an element, or pydicom refuses a value.
    """
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    buffer.write(_PREAMBLE)
    write_file_meta_info(buffer, dataset.file_meta)
    character_set = dataset.get("SpecificCharacterSet", default_encoding)
    for tag in _tags(dataset):
        element = dataset.get_item(tag)
        try:
            buffer.write(_element(element))
        except _Unusual:
            write_data_element(buffer, element, character_set)
    return buffer.getvalue()


def _element(element: DataElement | RawDataElement) -> bytes:
    if not isinstance(element, DataElement) or element.is_undefined_length:
        raise _Unusual
    tag, vr, value = element.tag, element.VR, element.value
    content = _items(value) if vr == "SQ" else _numbers(vr, value) if vr in _NUMBER else _text(vr, value)
    if vr in _LONG_VRS:
        return _LONG.pack(tag >> 16, tag & 0xFFFF, vr.encode(), 0, len(content)) + content
    if len(content) > _LONGEST_SHORT:
        raise _Unusual
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, vr.encode(), len(content)) + content


def _items(items: Iterable[Dataset]) -> bytes:
    """Items of explicit length (PS3.5 section 7.5)."""
    parts: list[bytes] = []
    for item in items:
        if getattr(item, "is_undefined_length_sequence_item", False):
            raise _Unusual
        content = b"".join([_element(item.get_item(tag)) for tag in _tags(item)])
        parts += (_ITEM.pack(0xFFFE, 0xE000, len(content)), content)
    return b"".join(parts)


def _tags(dataset: Dataset) -> list[BaseTag]:
    """In ascending order, without group lengths (PS3.5 sections 7.1 and 7.2)."""
    # Plain integers sort much faster than tags, which compare in Python.
    return sorted((tag for tag, _ in dataset.items() if tag & 0xFFFF), key=int)


def _numbers(vr: str, value: object) -> bytes:
    values = _listed(value)
    try:
        return struct.pack(f"<{len(values)}{_NUMBER[vr]}", *values)
    except struct.error:
        raise _Unusual from None


def _text(vr: str, value: object) -> bytes:
    padding = _PADDING.get(vr)
    if padding is None:
        raise _Unusual
    # Numbers are written in the words that they came in, as pydicom does.
    text = "\\".join([str(getattr(part, "original_string", part)) for part in _listed(value)])
    if not text.isascii():
        raise _Unusual
    content = text.encode("ascii")
    return content + padding if len(content) % 2 else content


def _listed(value: Any) -> Collection[Any]:
    return () if value is None else value if isinstance(value, MultiValue) else (value,)
