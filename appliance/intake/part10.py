"""A strict and bounded scanner of DICOM files: what must be known at receipt, without loading any value of size.

It walks the elements of the data set once, checks every length against the end of the file, and keeps the UIDs and
the few attributes that models match on. Whatever the bytes are, it answers in time and memory that are bounded by
the limits below, and raises nothing but ``RejectedInput``.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.domain.attributes import MATCH_ATTRIBUTES, Attributes, AttributeValue
from appliance.domain.uids import is_valid_uid
from appliance.errors import RejectedInput
from appliance.intake.byte_source import ByteSource, FileBytes, InflatedBytes
from appliance.intake.file_meta import TRANSFER_SYNTAXES, Encoding

MAX_DEPTH: Final = 32
"""Sequences of undefined length inside each other; real ones nest five or six deep."""
MAX_ELEMENTS: Final = 1_000_000
"""Elements, items and fragments that are looked at in one file: bounds the time at a few seconds."""
MAX_KEPT_BYTES: Final = 1024
"""A longer value of a matching attribute is passed over as if it were absent (LO holds 64 characters)."""

_SPECIFIC_CHARACTER_SET = 0x00080005
_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_STUDY_INSTANCE_UID = 0x0020000D
_SERIES_INSTANCE_UID = 0x0020000E
_IMAGES_IN_ACQUISITION = 0x00201002
_NUMBER_OF_FRAMES = 0x00280008
_PIXEL_DATA = 0x7FE00010
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, _PIXEL_DATA})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

_KEPT = frozenset(MATCH_ATTRIBUTES.values()) | {
    _SPECIFIC_CHARACTER_SET,
    _SOP_CLASS_UID,
    _SOP_INSTANCE_UID,
    _STUDY_INSTANCE_UID,
    _SERIES_INSTANCE_UID,
    _IMAGES_IN_ACQUISITION,
}
_DECIMALS = frozenset(
    {"SliceThickness", "RepetitionTime", "EchoTime", "InversionTime", "MagneticFieldStrength", "FlipAngle"}
)
_UNSIGNED = frozenset({"SamplesPerPixel", "Rows", "Columns"})
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\Z")
_INTEGER = re.compile(r"[+-]?\d{1,12}\Z")

_HEADER_BYTES: Final = 8
"""Of any element, item or delimiter at least: tag, and length, or VR and half a length (PS3.5 section 7.1)."""
# PS3.5 section 7.1.2: these have a 16-bit length, the others two reserved bytes and a 32-bit length.
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


@dataclass(frozen=True, slots=True)
class ScannedInstance:
    """What a file says about itself.

    Attributes
    ----------
    attributes
        The matching attributes that are there (``domain.attributes``), typed, text decoded leniently.
    frames
        Number of Frames (0028,0008), 1 where it is absent.
    images_in_acquisition
        Images in Acquisition (0020,1002), 0 where it is absent or no number.
    has_pixel_data
        Whether (7FE0,0010), (7FE0,0008) or (7FE0,0009) is there; reports and presentation states have none.
    has_head
        Whether preamble and file meta information precede the data set.
    data_set_offset
        Where the data set starts, in bytes from the start of the file.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    attributes: Attributes
    frames: int
    images_in_acquisition: int
    has_pixel_data: bool
    has_head: bool
    data_set_offset: int


def scan_file(path: Path, *, max_bytes: int) -> ScannedInstance:
    """Scan the file at ``path``; see ``scan``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return scan(descriptor, max_bytes=max_bytes)
    finally:
        os.close(descriptor)


def scan(descriptor: int, *, max_bytes: int) -> ScannedInstance:
    """Scan an open file.

    Parameters
    ----------
    descriptor
        A readable, seekable file; its position is not moved.
    max_bytes
        Largest file, and largest inflated data set, that is looked at.

    Raises
    ------
    RejectedInput
        With the reason ``empty``, ``not-dicom``, ``dicomdir``, ``truncated``, ``malformed``, ``too-big``,
        ``unsupported-transfer-syntax``, ``missing-uid`` or ``bad-uid``.
    """
    size = os.fstat(descriptor).st_size
    if size == 0:
        raise RejectedInput("empty", "the file is empty", found="0 bytes", mend="Send or copy it again")
    if size > max_bytes:
        raise RejectedInput(
            "too-big",
            "the file is larger than what is taken",
            found=f"{size >> 20} MiB",
            expected=f"at most {max_bytes >> 20} MiB (dicom.max_instance_bytes)",
            mend="Raise the limit if the image is genuine",
        )
    transfer_syntax_uid, offset, has_head = _read_head(descriptor, size)
    encoding = TRANSFER_SYNTAXES.get(transfer_syntax_uid)
    if encoding is None:
        raise RejectedInput(
            "unsupported-transfer-syntax",
            "the data set is in a transfer syntax that is not taken",
            found=transfer_syntax_uid if is_valid_uid(transfer_syntax_uid) else "no valid UID",
            expected="uncompressed, RLE, JPEG, JPEG-LS or JPEG 2000",
            mend="Let the sender convert it",
        )
    source: ByteSource
    if encoding.deflated:
        source = InflatedBytes(descriptor, offset, size, max_bytes)
    else:
        source = FileBytes(descriptor, offset, size)
    values, has_pixel_data = _walk(source, encoding)
    uids = [_uid(values, tag, name) for tag, name in _REQUIRED_UIDS]
    attributes = _attributes(values, big_endian=encoding.big_endian)
    frames = attributes.get("NumberOfFrames", 1)
    return ScannedInstance(
        sop_class_uid=uids[0],
        sop_instance_uid=uids[1],
        study_instance_uid=uids[2],
        series_instance_uid=uids[3],
        transfer_syntax_uid=transfer_syntax_uid,
        attributes=attributes,
        frames=frames if isinstance(frames, int) else 1,
        images_in_acquisition=_count(_text(values.get(_IMAGES_IN_ACQUISITION, b""))),
        has_pixel_data=has_pixel_data,
        has_head=has_head,
        data_set_offset=offset,
    )


_REQUIRED_UIDS = (
    (_SOP_CLASS_UID, "SOP Class UID"),
    (_SOP_INSTANCE_UID, "SOP Instance UID"),
    (_STUDY_INSTANCE_UID, "Study Instance UID"),
    (_SERIES_INSTANCE_UID, "Series Instance UID"),
)


def _not_dicom() -> RejectedInput:
    return RejectedInput(
        "not-dicom",
        "the file is not DICOM",
        expected="a Part 10 file, or a bare data set in little endian",
        mend="Remove it, or export it as DICOM",
    )


def _malformed(found: str) -> RejectedInput:
    return RejectedInput(
        "malformed",
        "the data set is not well-formed",
        found=found,
        expected="elements as PS3.5 section 7 has them",
        mend="Export it again, or look at it with dcmdump",
    )


def _read_head(descriptor: int, size: int) -> tuple[str, int, bool]:
    """Return the transfer syntax, the offset of the data set, and whether preamble and file meta are there."""
    start = os.pread(descriptor, 140, 0)
    if start[128:132] == b"DICM":
        return *_read_meta(descriptor, size, 132), True
    # Some old exporters leave out the preamble, or the file meta information as well.
    if len(start) < 16:
        raise _not_dicom()
    group, element, vr, short_length = struct.unpack_from("<HH2sH", start)
    long_length = struct.unpack_from("<I", start, 4)[0]
    if group == 2 and vr in _SHORT_VRS | _LONG_VRS:
        return *_read_meta(descriptor, size, 0), False
    if group == 8 and element <= 0x0018:
        if vr in _SHORT_VRS and 8 + short_length <= size:
            return "1.2.840.10008.1.2.1", 0, False
        if 8 + long_length <= size and long_length <= MAX_KEPT_BYTES:
            return "1.2.840.10008.1.2", 0, False
    raise _not_dicom()


def _read_meta(descriptor: int, size: int, start: int) -> tuple[str, int]:
    """Walk group 0002 (explicit VR little endian); return the transfer syntax and the offset behind it."""
    source = FileBytes(descriptor, start, size)
    values: dict[int, bytes] = {}
    for _ in range(1000):
        offset = source.position
        if source.at_end():
            break
        head = source.take(_HEADER_BYTES)
        group, element = struct.unpack_from("<HH", head)
        if group != 2:
            return _checked_meta(values), offset
        _, length = _explicit_header(head, source, "<")
        if length == _UNDEFINED:
            raise _malformed("an element of undefined length in the file meta information")
        if length <= MAX_KEPT_BYTES:
            values[element] = source.take(length)
        else:
            source.skip(length)
    else:
        raise _malformed("more than 1000 elements of file meta information")
    raise RejectedInput(
        "truncated", "the file holds no data set behind its file meta information", mend="Send it again"
    )


def _checked_meta(values: Mapping[int, bytes]) -> str:
    if _text(values.get(0x0002, b"")) == _MEDIA_STORAGE_DIRECTORY:
        raise RejectedInput("dicomdir", "the file is a DICOMDIR, an index without images")
    if 0x0010 not in values:
        raise _malformed("file meta information without a Transfer Syntax UID")
    return _text(values[0x0010])


def _explicit_header(head: bytes, source: ByteSource, order: str) -> tuple[bytes, int]:
    """VR and length of an explicit VR element whose first eight bytes have been taken."""
    vr, length = struct.unpack_from(order + "2sH", head, 4)
    if vr in _SHORT_VRS:
        return vr, length
    if vr in _LONG_VRS:
        return vr, struct.unpack(order + "I", source.take(4))[0]
    raise _malformed("a value representation that does not exist")


@dataclass(slots=True)
class _Level:
    """One open sequence, item or run of fragments of undefined length, and the encoding around it."""

    kind: str
    encoding: Encoding


def _walk(source: ByteSource, encoding: Encoding) -> tuple[dict[int, bytes], bool]:
    """Walk a data set to its end; return the kept top-level values and whether pixels are there.

    Items and sequences of defined length are passed over as a whole; those of undefined length have to be walked to
    find their end, iteratively, as a hostile file nests without end.
    """
    values: dict[int, bytes] = {}
    has_pixel_data = False
    levels: list[_Level] = []
    for _ in range(MAX_ELEMENTS):
        if not levels and source.at_end():
            return values, has_pixel_data
        order = ">" if encoding.big_endian else "<"
        head = source.take(_HEADER_BYTES)
        group, element, length = struct.unpack(order + "HHI", head)
        tag = group << 16 | element
        if group == 0xFFFE:
            encoding = _step(source, tag, length, levels, encoding)
            continue
        if levels and levels[-1].kind != "item":
            raise _malformed("something other than an item in a sequence")
        vr = b""
        if encoding.explicit_vr:
            vr, length = _explicit_header(head, source, order)
        if not levels and tag in _PIXELS:
            has_pixel_data = True
        if length == _UNDEFINED:
            encoding = _open(tag, vr, levels, encoding)
        elif not levels and tag in _KEPT and length <= MAX_KEPT_BYTES:
            if tag in values:
                raise _malformed("an attribute that occurs twice")
            values[tag] = source.take(length)
        else:
            source.skip(length)
    raise _malformed(f"more than {MAX_ELEMENTS} elements")


def _open(tag: int, vr: bytes, levels: list[_Level], encoding: Encoding) -> Encoding:
    """Enter a value of undefined length; return the encoding inside."""
    if tag == _PIXEL_DATA and vr in (b"OB", b"OW", b""):
        kind, inside = "fragments", encoding
    elif vr == b"UN":
        # PS3.5 section 6.2.2 note 2: inside is implicit VR little endian, whatever is around.
        kind, inside = "sequence", Encoding(explicit_vr=False)
    elif vr in (b"SQ", b""):
        kind, inside = "sequence", encoding
    else:
        raise _malformed("an undefined length where none is allowed")
    _push(levels, _Level(kind, encoding))
    return inside


def _push(levels: list[_Level], level: _Level) -> None:
    if len(levels) >= 2 * MAX_DEPTH:
        raise _malformed(f"sequences nested deeper than {MAX_DEPTH}")
    levels.append(level)


def _step(source: ByteSource, tag: int, length: int, levels: list[_Level], encoding: Encoding) -> Encoding:
    """Handle an item or a delimiter (PS3.5 section 7.5); return the encoding that follows."""
    kind = levels[-1].kind if levels else ""
    if tag == _ITEM and kind in ("sequence", "fragments"):
        if length != _UNDEFINED:
            source.skip(length)
        elif kind == "fragments":
            raise _malformed("a fragment of undefined length")
        else:
            _push(levels, _Level("item", encoding))
        return encoding
    if (tag == _ITEM_END and kind == "item") or (tag == _SEQUENCE_END and kind in ("sequence", "fragments")):
        return levels.pop().encoding
    raise _malformed("an item or delimiter out of place")


def _uid(values: Mapping[int, bytes], tag: int, name: str) -> str:
    text = _text(values.get(tag, b""))
    if not text:
        raise RejectedInput("missing-uid", f"the data set has no {name}", mend="Export it again from the modality")
    if not is_valid_uid(text):
        raise RejectedInput(
            "bad-uid",
            f"the {name} is not a UID",
            found=f"{len(text)} characters",
            expected="1 to 64 digits and dots (PS3.5 section 9.1)",
            mend="Export it again from the modality",
        )
    return text


def _text(value: bytes, charset: str = "ascii") -> str:
    return value.decode(charset, "replace").strip(" \0")


def _charset(value: bytes) -> str:
    """The Python codec that comes nearest to Specific Character Set (0008,0005); good enough to match on."""
    name = _text(value)
    if name.startswith("ISO_IR 192"):
        return "utf-8"
    return "latin-1" if name.startswith("ISO_IR 100") else "ascii"


def _attributes(values: Mapping[int, bytes], *, big_endian: bool) -> dict[str, AttributeValue]:
    charset = _charset(values.get(_SPECIFIC_CHARACTER_SET, b""))
    attributes: dict[str, AttributeValue] = {}
    for keyword, tag in MATCH_ATTRIBUTES.items():
        raw = values.get(tag)
        value = None if raw is None else _typed(keyword, raw, charset, big_endian)
        if value is not None:
            attributes[keyword] = value
    return attributes


def _typed(keyword: str, raw: bytes, charset: str, big_endian: bool) -> AttributeValue | None:
    """Return the value as its VR has it, or ``None`` where it is empty or no number where one belongs."""
    if keyword in _UNSIGNED:
        return int.from_bytes(raw, "big" if big_endian else "little") if len(raw) in (2, 4) else None
    text = _text(raw, charset)
    if not text:
        return None
    if keyword in _DECIMALS:
        number = float(text) if _DECIMAL.match(text) else math.nan
        return number if math.isfinite(number) else None
    if keyword == "NumberOfFrames":
        return _frames(text)
    parts = [part.strip() for part in text.split("\\")]
    return parts if len(parts) > 1 else parts[0]


def _count(text: str) -> int:
    return int(text) if _INTEGER.match(text) and 0 < int(text) < 2**31 else 0


def _frames(text: str) -> int:
    count = _count(text)
    if not count:
        raise _malformed("a Number of Frames that is no positive number")
    return count
