"""InVesalius projects, as golden images: read as what they show, or refused."""

from __future__ import annotations

import io
import plistlib
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.errors import ModelPackageError
from appliance.imaging.invesalius import read_invesalius

VOXELS = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5) - 30


def project(path: Path, **changed: Any) -> Path:
    main = {
        "matrix": {"dtype": "int16", "filename": "matrix.dat", "shape": [3, 4, 5]},
        "modality": "CT",
        "orientation": 1,
        "spacing": [0.9, 0.8, 1.5],
        **changed,
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("main.plist", plistlib.dumps(main)), ("matrix.dat", VOXELS.tobytes())):
            member = tarfile.TarInfo(f"tmp123/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_slices_from_the_feet_up_and_rows_from_the_back_forward(tmp_path: Path) -> None:
    image = read_invesalius(project(tmp_path / "head.inv3"), "CT")
    assert np.array_equal(image.voxels, VOXELS) and image.voxels.dtype == np.float32
    assert image.grid.spacing_mm == pytest.approx((1.5, 0.8, 0.9))
    assert image.grid.to_patient((1, 2, 3)).tolist() == pytest.approx([2.7, -1.6, 1.5])
    assert (image.modality, len({frame.sop_instance_uid for frame in image.frames})) == ("CT", 3)


@pytest.mark.parametrize(
    "changed",
    [
        {"orientation": 2},
        {"orientation": "axial"},
        {"spacing": [1.0, 1.0]},
        {"spacing": 1.0},
        {"matrix": {"dtype": "int16", "filename": "matrix.dat", "shape": [3, 4, 6]}},
        {"matrix": {"dtype": "int16", "filename": "other.dat", "shape": [3, 4, 5]}},
        {"matrix": "matrix.dat"},
    ],
)
def test_what_is_no_such_project(changed: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelPackageError, match="a golden image"):
        read_invesalius(project(tmp_path / "head.inv3", **changed), "CT")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b"])
def test_what_is_no_archive(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "head.inv3").write_bytes(content)
    with pytest.raises(ModelPackageError, match="no InVesalius project"):
        read_invesalius(tmp_path / "head.inv3", "CT")
