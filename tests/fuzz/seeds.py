"""The corpus, made by the project's own factory: ``python -m tests.fuzz.seeds`` writes it again.

Inputs that showed a defect have names that begin with ``found``; each is also a test beside what was mended.
"""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom.sop_class import ModalityPerformedProcedureStep, StorageCommitmentPushModel

from tests.fuzz.logs import PLANTED_ROOT, PLANTED_TEXT
from tests.fuzz.target import CORPUS
from tests.support.dicom_factory import (
    Subject,
    chest_pixels,
    ct_series,
    ct_voxels,
    enhanced_ct,
    mr_series,
    mr_voxels,
    radiograph,
)
from tests.support.raw_peer import associate_request, p_data, store_command
from tests.support.received_files import CT, IMPLICIT, UNDEFINED, data_set, element, item, part10, sequence_end


@dataclass(frozen=True)
class PlantedSubject(Subject):
    """A patient whose every identifying value can be found again."""

    attributes: dict[str, object] = field(
        default_factory=lambda: {
            "PatientName": f"{PLANTED_TEXT}^NAME",
            "PatientID": f"{PLANTED_TEXT}-ID",
            "PatientBirthDate": "19600229",
            "PatientSex": "O",
            "StudyDate": "20240131",
            "StudyTime": "101500",
            "StudyID": PLANTED_TEXT,
            "AccessionNumber": f"{PLANTED_TEXT}-ACC",
            "ReferringPhysicianName": f"{PLANTED_TEXT}^REF",
            "StudyDescription": f"{PLANTED_TEXT} study",
        }
    )

    def uid(self, *parts: object) -> str:
        """A UID that begins as all that are planted."""
        digest = hashlib.sha256("/".join([self.seed, *map(str, parts)]).encode()).digest()
        return f"{PLANTED_ROOT}.{int.from_bytes(digest[:9], 'big')}"


_SUBJECT = PlantedSubject()


def _written(dataset: Dataset, syntax: str | None = None) -> bytes:
    target = io.BytesIO()
    if syntax is not None:
        dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = dataset.PixelData[::-1]
        dataset.save_as(target, implicit_vr=False, little_endian=False, enforce_file_format=True)
    else:
        dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def _ct(rows: int = 4) -> Dataset:
    return ct_series(ct_voxels(1, rows, rows), subject=_SUBJECT)[0]


def _compressed(syntax: str, rows: int = 16) -> bytes:
    dataset = _ct(rows)
    dataset.compress(syntax, generate_instance_uid=False)
    return _written(dataset)


def _by_dcmtk(option: str, bits: int) -> bytes:
    """A radiograph as dcmtk's JPEG encoders write it, which pydicom has none of."""
    dataset = radiograph(chest_pixels(16, 16), subject=_SUBJECT)
    if bits == 8:
        dataset.PixelData = bytes(dataset.pixel_array.flatten().astype("u2") >> 4)
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "source", Path(name) / "target"
        source.write_bytes(_written(dataset))
        subprocess.run(["dcmcjpeg", option, "+un", str(source), str(target)], check=True, capture_output=True)
        return target.read_bytes()


def _planted_data_set(syntax: str = "1.2.840.10008.1.2.1", **options: object) -> bytes:
    return data_set(
        instance=f"{PLANTED_ROOT}.1", series=f"{PLANTED_ROOT}.2", study=f"{PLANTED_ROOT}.3", syntax=syntax, **options
    )  # type: ignore[arg-type]


def dataset_seeds() -> Iterator[tuple[str, bytes]]:
    """Each encoding, and what nests."""
    yield "00-explicit", _written(_ct())
    yield "01-implicit", _written(_ct(), ImplicitVRLittleEndian)
    yield "02-big-endian", _written(_ct(), ExplicitVRBigEndian)
    yield "03-deflated", _written(_ct(), DeflatedExplicitVRLittleEndian)
    yield "04-enhanced", _written(enhanced_ct(ct_voxels(2, 4, 4), subject=_SUBJECT))
    yield "05-encapsulated", _compressed(RLELossless)
    nested = item(element(0x0040A375, "SQ", b"", length=UNDEFINED) + item(b"", undefined=True) + sequence_end())
    sequence = element(0x00081140, "SQ", b"", length=UNDEFINED) + nested + sequence_end()
    yield (
        "06-undefined-lengths",
        part10(_planted_data_set(extra=[(0x00081140, sequence)]), instance=f"{PLANTED_ROOT}.1"),
    )
    yield "07-bare-implicit", _planted_data_set(IMPLICIT)
    yield "08-no-preamble", part10(_planted_data_set(), instance=f"{PLANTED_ROOT}.1")[132:]


_ENDLESS = "ffd8fff7000b0c0010001001011100ffda00080101000000006f81041084211111111103ff0d000000d9"
"""A JPEG-LS frame whose last marker is damaged: CharLS takes seconds to refuse it."""


def _nested(depth: int) -> bytes:
    """A sequence of sequences, which pydicom reads by recursion."""
    inner = b""
    for _ in range(depth):
        inner = element(0x0040A730, "SQ", b"", length=UNDEFINED) + item(inner) + sequence_end()
    return inner


def pixels_seeds() -> Iterator[tuple[str, bytes]]:
    """Each decoder, and headers that matter."""
    yield "00-radiograph", _written(radiograph(chest_pixels(16, 16), subject=_SUBJECT))
    yield "01-ct", _written(_ct(16))
    yield "02-mr", _written(mr_series(mr_voxels(1, 8, 8), subject=_SUBJECT)[0], ImplicitVRLittleEndian)
    yield "03-enhanced", _written(enhanced_ct(ct_voxels(3, 6, 5), subject=_SUBJECT))
    yield "04-rle", _compressed(RLELossless)
    yield "05-jpeg-ls", _compressed(JPEGLSLossless)
    yield "06-jpeg-2000", _compressed(JPEG2000Lossless, 64)
    yield "07-deflated", _written(_ct(16), DeflatedExplicitVRLittleEndian)
    yield "08-jpeg-lossless", _by_dcmtk("+e1", 16)
    yield "09-jpeg-baseline", _by_dcmtk("+eb", 8)
    yield "10-jpeg-extended", _by_dcmtk("+ee", 16)
    yield "11-big-endian", _written(_ct(16), ExplicitVRBigEndian)
    deep = _planted_data_set(extra=[(0x0040A730, _nested(1000))])
    huge = bytearray(_compressed(JPEG2000Lossless, 64))
    at = huge.index(b"\xff\x4f\xff\x51") + 8
    huge[at : at + 8] = struct.pack(">II", 60_000, 60_000)
    yield "found-huge-frame", bytes(huge)
    too_long = _compressed(RLELossless)
    at = too_long.rindex(b"\xf1")
    yield "found-run-too-long", too_long[:at] + b"\xf0" + too_long[at + 1 :]
    endless = _ct(16)
    endless.file_meta.TransferSyntaxUID = JPEGLSLossless
    endless.PixelData = encapsulate([bytes.fromhex(_ENDLESS)])
    yield "found-no-end-of-image", _written(endless)
    yield "found-recursion", part10(deep, instance=f"{PLANTED_ROOT}.1")


def _release() -> bytes:
    return struct.pack(">BBII", 5, 0, 4, 0)


def _number(tag: int, value: int) -> bytes:
    return element(tag, "US", struct.pack("<H", value), IMPLICIT)


def _command(field: int, *, sop_class: str = CT, data: bool = False, more: bytes = b"") -> bytes:
    elements = element(0x00000002, "UI", sop_class.encode(), IMPLICIT) + _number(0x00000100, field)
    elements += _number(0x00000110, 3) + _number(0x00000800, 1 if data else 0x0101) + more
    return element(0x00000000, "UL", struct.pack("<I", len(elements)), IMPLICIT) + elements


def _user_items(*items: bytes) -> bytes:
    """An association request with more user information (PS3.7 annex D.3.3)."""
    request = associate_request()
    more = b"".join(items)
    at = request.index(b"\x50\x00", 74 + 20)
    size = int.from_bytes(request[at + 2 : at + 4], "big") + len(more)
    body = request[6:at] + struct.pack(">BBH", 0x50, 0, size) + request[at + 4 :] + more
    return struct.pack(">BBI", 1, 0, len(body)) + body


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def _n_command(field: int, sop_class: str, instance: str, *, requested: bool, more: bytes = b"") -> bytes:
    """A request with a data set about an object that exists already, or that is being made (PS3.7 section 10.3)."""
    uids = (0x00000003, 0x00001001) if requested else (0x00000002, 0x00001000)
    elements = element(uids[0], "UI", sop_class.encode(), IMPLICIT) + _number(0x00000100, field)
    elements += _number(0x00000110, 3) + _number(0x00000800, 1)
    elements += element(uids[1], "UI", instance.encode(), IMPLICIT) + more
    return element(0x00000000, "UL", struct.pack("<I", len(elements)), IMPLICIT) + elements


def _encoded(dataset: Dataset) -> bytes:
    target = io.BytesIO()
    dcmwrite(target, dataset, implicit_vr=False, little_endian=True)
    return target.getvalue()


def _message(command: bytes, dataset: Dataset) -> bytes:
    return p_data(command, command=True, last=True) + p_data(_encoded(dataset), command=False, last=True)


def _image() -> Dataset:
    image = Dataset()
    image.ReferencedSOPClassUID = CT
    image.ReferencedSOPInstanceUID = f"{PLANTED_ROOT}.1"
    return image


def _procedure_step() -> bytes:
    """N-CREATE and N-SET of a Modality Performed Procedure Step."""
    scheduled = Dataset()
    scheduled.StudyInstanceUID = f"{PLANTED_ROOT}.3"
    created = Dataset()
    created.PatientName = f"{PLANTED_TEXT}^NAME"
    created.PatientID = f"{PLANTED_TEXT}-ID"
    created.Modality = "CT"
    created.ScheduledStepAttributesSequence = [scheduled]
    created.PerformedProcedureStepID = PLANTED_TEXT
    created.PerformedProcedureStepStatus = "IN PROGRESS"
    created.PerformedStationAETitle = "CT1"
    created.PerformedProcedureStepStartDate = "20240131"
    created.PerformedProcedureStepStartTime = "101500"
    created.PerformedSeriesSequence = []
    series = Dataset()
    series.SeriesInstanceUID = f"{PLANTED_ROOT}.2"
    series.ReferencedImageSequence = [_image()]
    ended = Dataset()
    ended.PerformedProcedureStepStatus = "COMPLETED"
    ended.PerformedProcedureStepEndDate = "20240131"
    ended.PerformedProcedureStepEndTime = "101600"
    ended.PerformedSeriesSequence = [series]
    step = f"{PLANTED_ROOT}.7"
    uid = ModalityPerformedProcedureStep
    return (
        associate_request(sop_class=uid)
        + _message(_n_command(0x0140, uid, step, requested=False), created)
        + _message(_n_command(0x0120, uid, step, requested=True), ended)
        # Without a release, which the library would answer before the second request, as that did not wait its turn.
    )


def _commitment() -> bytes:
    """N-ACTION of Storage Commitment."""
    asked = Dataset()
    asked.TransactionUID = f"{PLANTED_ROOT}.8"
    asked.ReferencedSOPSequence = [_image()]
    uid = StorageCommitmentPushModel
    command = _n_command(0x0130, uid, "1.2.840.10008.1.20.1.1", requested=True, more=_number(0x00001008, 1))
    return associate_request(sop_class=uid) + _message(command, asked) + _release()


def association_seeds() -> Iterator[tuple[str, bytes]]:
    """A store in the fast lane and one past it, the other services, negotiation with all its items."""
    instance = f"{PLANTED_ROOT}.1"
    command, content = store_command(CT, instance), _planted_data_set()
    start = associate_request()
    store = p_data(command, command=True, last=True)
    yield "00-store", start + store + p_data(content, command=False, last=True) + _release()
    fragments = p_data(content[:100], command=False, last=False) + p_data(content[100:], command=False, last=True)
    yield "01-fragments", start + store + fragments + _release()
    split = p_data(command[:50], command=True, last=False) + p_data(command[50:], command=True, last=True)
    yield "02-command-in-two", start + split + fragments + _release()
    yield (
        "03-no-data-set",
        start + p_data(store_command(CT, instance, with_data_set=False), command=True, last=True) + _release(),
    )
    echo = p_data(_command(0x0030, sop_class="1.2.840.10008.1.1"), command=True, last=True)
    yield "04-echo", associate_request(sop_class="1.2.840.10008.1.1") + echo * 2 + _release()
    find = p_data(_command(0x0020, data=True, more=_number(0x00000700, 0)), command=True, last=True)
    yield "05-find", start + find + p_data(content, command=False, last=True) + _release()
    action = p_data(_command(0x0130, data=True, more=_number(0x00001008, 1)), command=True, last=True)
    yield "06-action", start + action + p_data(content, command=False, last=True) + _release()
    cancel = p_data(_command(0x0FFF) + _number(0x00000120, 7), command=True, last=True)
    yield "07-cancel", start + cancel + _release()
    role = _item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\1\1")
    window = _item(0x53, struct.pack(">HH", 0, 0))
    extended = _item(0x56, struct.pack(">H", len(CT)) + CT.encode() + b"\1\1\1")
    common = _item(0x57, struct.pack(">H", len(CT)) + CT.encode() + struct.pack(">HHH", 0, 0, 0))
    identity = _item(0x58, b"\2\1" + struct.pack(">H", 7) + PLANTED_TEXT.encode() + struct.pack(">H", 6) + b"secret")
    version = _item(0x55, b"FUZZER")
    yield (
        "08-negotiation",
        _user_items(window, role, version, extended, common, identity) + store + fragments + _release(),
    )
    yield (
        "09-abort",
        start + store + p_data(content[:100], command=False, last=False) + struct.pack(">BBII", 7, 0, 4, 0),
    )
    both = struct.pack(">IBB", len(command) + 2, 1, 3) + command + struct.pack(">IBB", len(content) + 2, 1, 2) + content
    yield "10-one-pdu", start + struct.pack(">BBI", 4, 0, len(both)) + both + _release()
    yield "11-procedure-step", _procedure_step()
    yield "12-commitment", _commitment()
    yield "found-abort-source", start + struct.pack(">BBIBBBB", 7, 0, 4, 0, 0, 7, 9)
    yield "found-late-answer", start + _release() + bytes([99, 0, 0, 0, 0, 0])
    without = start.replace(_item(0x30, CT.encode()), _item(0x40, CT.encode()))
    yield "found-no-abstract-syntax", without + store + fragments
    # Affected SOP Instance UID is left out: the library drops the request, with the data set that came with it.
    lacking = _command(0x0001, data=True, more=_number(0x00000700, 0))
    yield "found-request-incomplete", start + p_data(lacking, command=True, last=True) + fragments + _release()


def dropfolder_seeds() -> Iterator[tuple[str, bytes]]:
    """Files and archives."""
    ct = _written(_ct())
    yield "00-file", b"PLANTED.dcm\n" + ct
    yield "01-sub-folder", b"PLANTED/STUDY/1\n" + _written(_ct(), ImplicitVRLittleEndian)
    for number, method in ((2, zipfile.ZIP_STORED), (3, zipfile.ZIP_DEFLATED)):
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", method) as archive:
            archive.writestr(zipfile.ZipInfo("PLANTED/1.dcm"), ct)
            archive.writestr(zipfile.ZipInfo("PLANTED/2.txt"), b"no image")
            archive.writestr(zipfile.ZipInfo("PLANTED/3.dcm"), _written(_ct(), DeflatedExplicitVRLittleEndian))
        yield f"{number:02}-archive", b"PLANTED.zip\n" + target.getvalue()
    yield "04-text", b"PLANTED.txt\nno image at all"
    yield "05-empty", b"PLANTED\n"
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(zipfile.ZipInfo("PLANTED/1.dcm"), ct)
        archive.writestr(zipfile.ZipInfo(""), ct)
    content = bytearray(target.getvalue())
    yield "found-no-name", b"PLANTED.zip\n" + content
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = struct.pack("<I", 2**20)
    yield "found-directory-before-the-file", b"PLANTED.zip\n" + content


def write_seeds() -> None:
    """Write the seeds of all targets into the corpus."""
    for name, seeds in (
        ("dataset", dataset_seeds()),
        ("pixels", pixels_seeds()),
        ("association", association_seeds()),
        ("dropfolder", dropfolder_seeds()),
    ):
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for label, content in seeds:
            (folder / label).write_bytes(content)


if __name__ == "__main__":
    write_seeds()
    sys.exit(0)
