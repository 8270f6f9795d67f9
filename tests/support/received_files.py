"""Files as peers and people send them: tiny valid instances, and bytes that are wrong in one chosen way."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

from appliance.intake.file_meta import encode_head

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG_LS = "1.2.840.10008.1.2.4.80"

STUDY, SERIES, INSTANCE = "1.2.3", "1.2.3.4", "1.2.3.4.5"

UNDEFINED = 0xFFFFFFFF
_LONG = {"OB", "OW", "SQ", "UN", "UT"}


def element(tag: int, vr: str, value: bytes, syntax: str = EXPLICIT, length: int | None = None) -> bytes:
    """One data element; ``length`` is what is written where it shall not be that of the value."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB", "UN") else b" "
    length = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", length) + value
    if vr in _LONG:
        return head + struct.pack(order + "2sHI", vr.encode(), 0, length) + value
    return head + struct.pack(order + "2sH", vr.encode(), length) + value


def text(tag: int, vr: str, value: str, syntax: str = EXPLICIT) -> bytes:
    """A text element."""
    return element(tag, vr, value.encode("latin-1"), syntax)


def item(content: bytes, *, undefined: bool = False, big_endian: bool = False) -> bytes:
    """A sequence item or a fragment."""
    order = ">" if big_endian else "<"
    head = struct.pack(order + "HHI", 0xFFFE, 0xE000, UNDEFINED if undefined else len(content))
    return head + content + (struct.pack(order + "HHI", 0xFFFE, 0xE00D, 0) if undefined else b"")


def sequence_end(big_endian: bool = False) -> bytes:
    """A Sequence Delimitation Item."""
    return struct.pack(">HHI" if big_endian else "<HHI", 0xFFFE, 0xE0DD, 0)


def data_set(
    *,
    sop_class: str = CT,
    instance: str = INSTANCE,
    series: str = SERIES,
    study: str = STUDY,
    modality: str = "CT",
    syntax: str = EXPLICIT,
    pixels: bytes | None = bytes(32),
    extra: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    """A small data set in the order of its tags; ``extra`` are tags with their whole encoded elements."""
    order = "big" if syntax == BIG_ENDIAN else "little"
    elements = {
        0x00080016: text(0x00080016, "UI", sop_class, syntax),
        0x00080018: text(0x00080018, "UI", instance, syntax),
        0x00080060: text(0x00080060, "CS", modality, syntax),
        0x00100010: text(0x00100010, "PN", "Phantom^Test", syntax),
        0x0020000D: text(0x0020000D, "UI", study, syntax),
        0x0020000E: text(0x0020000E, "UI", series, syntax),
        0x00280010: element(0x00280010, "US", (4).to_bytes(2, order), syntax),  # type: ignore[arg-type]
    }
    if pixels is not None:
        elements[0x7FE00010] = element(0x7FE00010, "OW", pixels, syntax)
    elements.update(extra)
    return b"".join(elements[tag] for tag in sorted(elements))


def part10(content: bytes, syntax: str = EXPLICIT, sop_class: str = CT, instance: str = INSTANCE) -> bytes:
    """A Part 10 file around a data set."""
    return encode_head(sop_class, instance, syntax) + content


def deflate(content: bytes) -> bytes:
    """A data set as Deflated Explicit VR Little Endian has it."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(content) + deflater.flush()
