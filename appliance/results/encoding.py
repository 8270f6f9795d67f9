"""A data set as a DICOM file in Explicit VR Little Endian: the bytes that pydicom writes, in a tenth of the time.

Reports and segmentations are thousands of small elements in sequences, nearly all of them ASCII text. pydicom spends
most of its time on questions that have one answer here: which byte order, which character set, which of two VRs.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from typing import Any, Final

from pydicom.charset import default_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr, write_data_element, write_file_meta_info
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
_NUMBER: Final = {"FD": "d", "FL": "f", "UL": "L", "US": "H"}
# VRs whose length takes four bytes (PS3.5 section 7.1.2).
_LONG_VRS: Final = frozenset(("SQ", "UC", "UR", "UT"))
_SPECIFIC_CHARACTER_SET: Final = 0x00080005
_CharacterSet = str | list[str]


class _Unusual(Exception):
    """An element with something in it that these few lines do not know: pydicom writes it."""


def encoded_file(dataset: Dataset) -> bytes:
    """Encode ``dataset`` as a file (PS3.10 section 7).

    Parameters
    ----------
    dataset
        Its ``file_meta`` names Explicit VR Little Endian. Text that is not parsed yet, at any depth, is in the
        character set of the data set, and is written byte for byte. Sequences and items get explicit lengths (PS3.5
        section 7.5).

    Raises
    ------
    ValueError, TypeError, AttributeError, NotImplementedError, OSError
        The file meta information lacks an element, or pydicom refuses a value.
    """
    buffer = _explicit_buffer()
    buffer.write(_PREAMBLE)
    write_file_meta_info(buffer, dataset.file_meta)
    buffer.write(_elements(dataset, default_encoding))
    return buffer.getvalue()


def _elements(dataset: Dataset, character_set: _CharacterSet) -> bytes:
    """All elements of a data set or item, which inherits ``character_set`` unless it names its own.

    In ascending order, without group lengths (PS3.5 sections 7.1 and 7.2).
    """
    # Plain integers sort much faster than tags, which compare in Python.
    tags = sorted((tag for tag, _ in dataset.items() if tag & 0xFFFF), key=int)
    if tags and tags[0] <= _SPECIFIC_CHARACTER_SET:
        character_set = dataset.get("SpecificCharacterSet") or character_set
    return b"".join([_element(dataset, tag, character_set) for tag in tags])


def _element(dataset: Dataset, tag: BaseTag, character_set: _CharacterSet) -> bytes:
    element: DataElement | RawDataElement = dataset.get_item(tag)
    if isinstance(element, RawDataElement):
        text = _unparsed_text(element)
        if text is not None:
            return text
        # A number of another encoding: what it is depends, for some tags, on what stands beside it.
        element = correct_ambiguous_vr(dataset, True)[tag]
    try:
        return _encoded(element, character_set)
    except _Unusual:
        # One element at a time: pydicom takes the items of a sequence to be in a character set of their own, and
        # garbles the text of those that were put together from parts of others.
        buffer = _explicit_buffer()
        write_data_element(buffer, element, character_set)
        return bytes(buffer.getvalue())


def _unparsed_text(element: RawDataElement) -> bytes | None:
    """Text that was not parsed, byte for byte: it is the same in all encodings. ``None`` for all else."""
    vr = element.VR or (dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else None)
    if element.value is None or (vr not in _PADDING and vr != "PN"):
        return None
    value = element.value if len(element.value) % 2 == 0 else element.value + _PADDING.get(vr, b" ")
    if vr not in _LONG_VRS and len(value) > _LONGEST_SHORT:
        return None
    return _header(element.tag, vr, len(value)) + value


def _encoded(element: DataElement, character_set: _CharacterSet) -> bytes:
    tag, vr, value = element.tag, element.VR, element.value
    if vr == "SQ":
        content = _items(value, character_set)
    else:
        content = _numbers(vr, value) if vr in _NUMBER else _text(vr, value)
        if vr not in _LONG_VRS and len(content) > _LONGEST_SHORT:
            raise _Unusual
    return _header(tag, vr, len(content)) + content


def _header(tag: int, vr: str, length: int) -> bytes:
    """Tag, VR and length (PS3.5 section 7.1.2)."""
    if vr in _LONG_VRS:
        return _LONG.pack(tag >> 16, tag & 0xFFFF, vr.encode(), 0, length)
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, vr.encode(), length)


def _items(items: Iterable[Dataset], character_set: _CharacterSet) -> bytes:
    parts: list[bytes] = []
    for item in items:
        content = _elements(item, character_set)
        parts += (_ITEM.pack(0xFFFE, 0xE000, len(content)), content)
    return b"".join(parts)


def _explicit_buffer() -> DicomBytesIO:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    return buffer


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
    return () if value is None else value if isinstance(value, MultiValue | list) else (value,)
