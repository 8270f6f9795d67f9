"""The head of a Part 10 file: preamble and file meta information (PS3.10 section 7.1), and the transfer syntaxes."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from appliance.domain.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the elements of a data set are written (PS3.5 section 7.1 and annex A)."""

    explicit_vr: bool = True
    big_endian: bool = False
    deflated: bool = False


_ENCAPSULATED: Final = Encoding()

TRANSFER_SYNTAXES: Final[Mapping[str, Encoding]] = {
    str(uid): encoding
    for uid, encoding in (
        # In the order in which a peer that offers several is answered: what decodes quickest first.
        (ExplicitVRLittleEndian, Encoding()),
        (ImplicitVRLittleEndian, Encoding(explicit_vr=False)),
        (DeflatedExplicitVRLittleEndian, Encoding(deflated=True)),
        (ExplicitVRBigEndian, Encoding(big_endian=True)),
        (RLELossless, _ENCAPSULATED),
        (JPEGLSLossless, _ENCAPSULATED),
        (JPEGLosslessSV1, _ENCAPSULATED),
        (JPEGLossless, _ENCAPSULATED),
        (HTJ2KLossless, _ENCAPSULATED),
        (HTJ2KLosslessRPCL, _ENCAPSULATED),
        (JPEG2000Lossless, _ENCAPSULATED),
        (JPEGBaseline8Bit, _ENCAPSULATED),
        (JPEGExtended12Bit, _ENCAPSULATED),
        (JPEGLSNearLossless, _ENCAPSULATED),
        (HTJ2K, _ENCAPSULATED),
        (JPEG2000, _ENCAPSULATED),
    )
}
"""The transfer syntaxes that are taken in, and how the data set itself is encoded in each."""


def encode_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return preamble, prefix and file meta information for a data set that comes without them.

    The UIDs have been checked by the caller. Explicit VR little endian, whatever the data set is (PS3.10 section 7.1).
    """
    elements = struct.pack("<HH2sHI2s", 2, 1, b"OB", 0, 2, b"\x00\x01")
    elements += _short(0x0002, b"UI", sop_class_uid)
    elements += _short(0x0003, b"UI", sop_instance_uid)
    elements += _short(0x0010, b"UI", transfer_syntax_uid)
    elements += _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID)
    elements += _short(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME)
    group_length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements))
    return bytes(128) + b"DICM" + group_length + elements


def _short(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    if len(value) % 2:
        value += b"\x00" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
