"""New images as often as they are needed: one file, copied with another UID each time."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import UID

from tests.support.dicom_factory import chest_pixels, ct_series, ct_voxels, radiograph, write_datasets

_MARK = "1.2.826.0.1.3680043.8.498.11111111111111111111"
_numbers = itertools.count(10**19)


def ct_slice(root: Path) -> bytes:
    """A CT slice of 512×512, 0.53 MB."""
    (path,) = write_datasets(ct_series(ct_voxels(1, 512, 512)), root / "ct")
    return template(path)


def dx_image(root: Path) -> bytes:
    """A radiograph of 3000×2500, 15 MB."""
    (path,) = write_datasets([radiograph(chest_pixels(3000, 2500), "DX")], root / "dx")
    return template(path)


def template(path: Path) -> bytes:
    """The file with a UID that can be replaced without reading it again."""
    dataset = dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(_MARK)
    dataset.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def copies(template: bytes, count: int, folder: Path) -> dict[str, Path]:
    """New files, on the disk: what reads them is no part of what is measured. By SOP Instance UID."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for index in range(count):
        uid = f"{_MARK[:-20]}{next(_numbers)}"
        path = folder / f"{index}.dcm"
        path.write_bytes(template.replace(_MARK.encode(), uid.encode()))
        paths[uid] = path
    os.sync()
    return paths
