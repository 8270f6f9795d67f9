"""What a compressed frame says about its own size, before a decoder believes it and asks for the memory."""

from __future__ import annotations

import struct
from typing import Final

from appliance.errors import UnsuitableImage

_J2K_START: Final = b"\xff\x4f\xff\x51"
"""SOC, and SIZ right behind it (ISO/IEC 15444-1 annex A.4)."""
_JP2_SIGNATURE: Final = b"\x00\x00\x00\x0cjP"
_JPEG_START: Final = b"\xff\xd8"
_FRAME_HEADERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
"""SOFn (ISO/IEC 10918-1 table B.1) and SOF55 (ISO/IEC 14495-1); C4, C8 and CC are none."""
_JPEG_LS: Final = 0xF7
_JPEG_END: Final = b"\xff\xd9"
_SCAN: Final = 0xDA
_ALONE: Final = frozenset(range(0xD0, 0xD9)) | {0x01, 0xFF}
"""Markers without a length, and the fill byte."""

Size = tuple[int, int, int]
"""Rows, columns and samples per pixel."""


def check_frame(frame: bytes, expected: Size) -> None:
    """Refuse a frame that would decode to another size than the header of the image has, or a JPEG-LS one without end.

    CharLS looks for the end of a number for seconds where neither a one nor a marker comes, whatever the size.

    Parameters
    ----------
    frame
        One frame: JPEG, JPEG-LS, JPEG 2000 or HTJ2K. Of RLE, and of what cannot be read, nothing is said: the decoder
        is bounded by the header, or refuses it.

    Raises
    ------
    UnsuitableImage
        ``undecodable``.
    """
    is_jpeg_ls = any(marker == _JPEG_LS for marker, _ in _frame_headers(frame))
    if is_jpeg_ls and not frame.rstrip(b"\0").endswith(_JPEG_END):
        raise UnsuitableImage(
            "undecodable",
            "the compressed frame has no end",
            expected="an EOI marker (PS3.5 section A.4)",
            mend="Send the image again, uncompressed if it fails again",
        )
    for found in declared_sizes(frame):
        if found != expected:
            raise UnsuitableImage(
                "undecodable",
                "the compressed frame has another size than its header says",
                found=" × ".join(map(str, found)),
                expected=" × ".join(map(str, expected)),
                mend="Send the image again, uncompressed if it fails again",
            )


def declared_sizes(frame: bytes) -> list[Size]:
    """The sizes that a frame declares; more than one only in frames that are damaged, hostile or hierarchical."""
    if frame.startswith(_JP2_SIGNATURE):
        return _in_boxes(frame)
    if frame.startswith(_J2K_START):
        return _of_code_stream(frame, 0)
    if frame.startswith(_JPEG_START):
        return [size for _, size in _frame_headers(frame)]
    return []


def _in_boxes(frame: bytes) -> list[Size]:
    """JPEG 2000 in a file of its own (ISO/IEC 15444-1 annex I), which DICOM forbids and some encoders write."""
    at, found = 0, []
    while at + 8 <= len(frame):
        length, kind = struct.unpack_from(">I4s", frame, at)
        head = 8
        if length == 1 and at + 16 <= len(frame):
            (length,), head = struct.unpack_from(">Q", frame, at + 8), 16
        if kind == b"jp2c":
            found += _of_code_stream(frame, at + head)
        if length < head:  # 0: to the end of the file
            break
        at += length
    return found


def _of_code_stream(frame: bytes, at: int) -> list[Size]:
    if frame[at : at + 4] != _J2K_START or at + 42 > len(frame):
        return []
    x_size, y_size, x_offset, y_offset = struct.unpack_from(">IIII", frame, at + 8)
    (samples,) = struct.unpack_from(">H", frame, at + 40)
    return [(y_size - y_offset, x_size - x_offset, samples)]


def _frame_headers(frame: bytes) -> list[tuple[int, Size]]:
    """Markers and sizes of the frame headers of a JPEG or JPEG-LS frame; none of any other."""
    at, found = 2 if frame.startswith(_JPEG_START) else len(frame), []
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == _SCAN:
            break
        (length,) = struct.unpack_from(">H", frame, at + 2)
        if marker in _FRAME_HEADERS and at + 10 <= len(frame):
            rows, columns, samples = struct.unpack_from(">HHB", frame, at + 5)
            found.append((marker, (rows, columns, samples)))
        at += 2 + length
    return found
