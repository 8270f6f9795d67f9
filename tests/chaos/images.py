"""Images that are made faster than they can be sent: templates in which only the UIDs are replaced."""

from __future__ import annotations

import hashlib
import io
import itertools
import threading
from dataclasses import dataclass
from functools import cached_property

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import UID

from appliance.intake.file_meta import encode_head
from tests.support.dicom_factory import Subject, ct_series, ct_voxels, radiograph
from tests.support.model_packages import cone
from tests.support.received_files import EXPLICIT

_ROOT = "1.2.826.0.1.3680043.8.498."
_STUDY, _SERIES, _INSTANCE = (f"{_ROOT}{level}.{level * 20}" for level in "123")
_FIRST = 10**19  # twenty digits, as the marks have
_OF_CT = 10**18  # their series have numbers of their own

SERIES_IMAGES = 10
"""CT slices of one series; each radiograph is a study of its own."""


@dataclass(frozen=True)
class Image:
    """One to be sent; ``data_set`` is in explicit VR little endian, without file meta information."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    data_set: bytes

    @cached_property
    def sha256(self) -> str:
        """Of the data set, in hexadecimal digits."""
        return hashlib.sha256(self.data_set).hexdigest()

    def part10(self) -> bytes:
        """The image as a file."""
        return encode_head(self.sop_class_uid, self.sop_instance_uid, EXPLICIT) + self.data_set


class Images:
    """Makes images that are all different: ``CR`` and ``DX``, which models judge, and ``CT``, which none does."""

    def __init__(self) -> None:
        subject = Subject(seed="chaos")
        self._templates = {
            "CR": _template(radiograph(cone(), "CR", subject=subject)),
            "DX": _template(radiograph(cone(), "DX", subject=subject)),
            "CT": _template(ct_series(ct_voxels(1, 96, 96))[0]),
        }
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def make(self, kind: str) -> Image:
        """Make the next image of a kind."""
        sop_class_uid, data_set = self._templates[kind]
        with self._lock:
            number = next(self._numbers)
        of_series = _OF_CT + number // SERIES_IMAGES if kind == "CT" else number
        for mark, value in ((_STUDY, of_series), (_SERIES, of_series), (_INSTANCE, number)):
            data_set = data_set.replace(mark.encode(), f"{mark[:-20]}{_FIRST + value}".encode())
        return Image(kind, sop_class_uid, f"{_INSTANCE[:-20]}{_FIRST + number}", data_set)


def _template(dataset: Dataset) -> tuple[str, bytes]:
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = map(UID, (_STUDY, _SERIES, _INSTANCE))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return str(dataset.SOPClassUID), data_set_of(buffer.getvalue())


def data_set_of(part10: bytes) -> bytes:
    """What stands behind the file meta information (PS3.10 section 7.1).

    Raises
    ------
    ValueError
        It is no Part 10 file.
    """
    if part10[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        raise ValueError("no Part 10 file")
    return part10[144 + int.from_bytes(part10[140:144], "little") :]


def sop_instance_uid_of(part10: bytes) -> str:
    """The SOP Instance UID that a Part 10 file has in its data set."""
    return str(dcmread(io.BytesIO(part10), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
