"""Model packages on disk: which there are, which are broken and why, whether their weights are the right ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import ConfigurationError, ModelPackageError, WeightsUnavailable
from appliance.modelrepo.package import ModelPackage
from appliance.modelrepo.repository import ModelRepository
from tests.unit.modelrepo.packages import from_wheel, make_wheel, own, sha256, write_package

ENGINES = Path(__file__).parents[3] / "engines"


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    folder = tmp_path / "engines"
    folder.mkdir()
    return folder


def repository(engines: Path) -> ModelRepository:
    return ModelRepository(engines, engines.parent / "weights")


def only(engines: Path) -> ModelPackage:
    (package,) = repository(engines).packages
    return package


def keys(packages: list[ModelPackage]) -> list[str]:
    return [package.manifest.key for package in packages]


def test_the_packages_of_the_project_are_sound(tmp_path: Path) -> None:
    """And what lies in them is what their manifests name."""
    found = ModelRepository(ENGINES, tmp_path)
    assert found.broken == []
    for package in found.packages:
        for weights in package.manifest.weights:
            if weights.source.kind == "package":
                assert package.require_right(weights).is_file()


def test_an_empty_folder_has_no_packages(engines: Path) -> None:
    assert repository(engines).active(None) == []
    with pytest.raises(ConfigurationError, match="the folder is empty"):
        repository(engines).find("brain")


def test_a_missing_folder_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"models\.folder"):
        ModelRepository(tmp_path / "absent", tmp_path)


def test_versions_are_numbers(engines: Path) -> None:
    """1.10 is newer than 1.9, although it comes before it in the alphabet."""
    for version in ("1.10.0", "1.9.0", "0.11.2"):
        write_package(engines, version=version)
    write_package(engines, "zebra")
    found = repository(engines)
    assert keys(found.packages) == ["brain/0.11.2", "brain/1.9.0", "brain/1.10.0", "zebra/1.0.0"]
    assert keys(found.active(None)) == ["brain/1.10.0", "zebra/1.0.0"]
    assert found.find("brain").manifest.version == "1.10.0"


def test_the_settings_may_name_versions(engines: Path) -> None:
    for version in ("1.0.0", "2.0.0"):
        write_package(engines, version=version)
    write_package(engines, "zebra")
    assert keys(repository(engines).active(["brain/1.0.0"])) == ["brain/1.0.0"]
    assert repository(engines).active([]) == []


@pytest.mark.parametrize("wanted", ["brian", "brain/9.0.0"])
def test_a_package_that_is_not_there_is_named_with_those_that_are(engines: Path, wanted: str) -> None:
    write_package(engines)
    with pytest.raises(ConfigurationError, match=f"{wanted}.*brain"):
        repository(engines).active([wanted])


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda folder: (folder / "manifest.yaml").write_text("name: [", encoding="utf-8"), "not YAML"),
        (lambda folder: (folder / "manifest.yaml").write_bytes(b"\xff\xfe\x00"), "not YAML"),
        (lambda folder: (folder / "manifest.yaml").write_text("name: brain", encoding="utf-8"), "schema_version"),
        (lambda folder: (folder / "manifest.yaml").write_text("", encoding="utf-8"), "rule"),
        (lambda folder: (folder / "manifest.yaml").unlink(), "No such file"),
        (lambda folder: folder.rename(folder.with_name("3.0.0")), "does not belong where it lies"),
        (lambda folder: folder.parent.rename(folder.parents[1] / "brian"), "does not belong where it lies"),
    ],
    ids=["no-yaml", "no-text", "rules", "empty", "no-manifest", "other-version", "other-name"],
)  # fmt: skip
def test_a_broken_package_disturbs_no_other(engines: Path, damage: object, found: str) -> None:
    write_package(engines, "zebra")
    damage(write_package(engines))  # type: ignore[operator]
    listed = repository(engines)
    assert keys(listed.packages) == ["zebra/1.0.0"]
    (broken,) = listed.broken
    assert found in str(broken.error)
    with pytest.raises(ConfigurationError, match="is broken"):
        listed.active([f"{broken.name}/{broken.version}"])


def test_other_files_and_folders_are_no_packages(engines: Path) -> None:
    write_package(engines)
    (engines / "README.md").write_text("about", encoding="utf-8")
    (engines / "brain" / "notes").mkdir()
    (engines / "brain" / "2.0.0").write_text("a file", encoding="utf-8")
    assert keys(repository(engines).packages) == ["brain/1.0.0"]
    assert repository(engines).broken == []


def test_a_model_whose_newest_version_is_broken_goes_on_with_the_one_before(engines: Path) -> None:
    write_package(engines)
    (write_package(engines, version="1.1.0") / "manifest.yaml").unlink()
    assert keys(repository(engines).active(None)) == ["brain/1.0.0"]
    assert [broken.version for broken in repository(engines).broken] == ["1.1.0"]


def test_weights_in_the_package(engines: Path) -> None:
    folder = write_package(engines, weights=own("a.onnx", "b.onnx"))
    assert only(engines).require_weights() == {"a.onnx": folder / "a.onnx", "b.onnx": folder / "b.onnx"}


def test_weights_that_are_not_fetched_name_the_command(engines: Path, tmp_path: Path) -> None:
    write_package(engines, weights=from_wheel(make_wheel(tmp_path)))
    with pytest.raises(WeightsUnavailable, match=r"first\.onnx, second\.onnx.*appliance models fetch brain/1\.0\.0"):
        only(engines).require_presence()


def test_weights_that_the_package_itself_lacks_cannot_be_fetched(engines: Path, tmp_path: Path) -> None:
    """Fetching what else is missing would not mend it: this comes first, and says where the file belongs."""
    folder = write_package(engines, weights=from_wheel(make_wheel(tmp_path)) + own("own.onnx"))
    (folder / "own.onnx").unlink()
    with pytest.raises(ModelPackageError, match=r"not whole: found no own\.onnx") as caught:
        only(engines).require_presence()
    assert "fetch" not in str(caught.value) and str(folder) in str(caught.value)


def test_other_weights_than_the_manifest_names_are_refused(engines: Path) -> None:
    """By their content alone: size and time are as they were. Both sums are shown."""
    folder = write_package(engines)
    (folder / "model.onnx").write_bytes(b"model.onnX")
    with pytest.raises(ModelPackageError) as caught:
        only(engines).require_weights()
    assert sha256(b"model.onnX") in str(caught.value) and sha256(b"model.onnx") in str(caught.value)


def test_weights_that_cannot_be_read_say_so(engines: Path) -> None:
    folder = write_package(engines)
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    (weights,) = only(engines).manifest.weights
    with pytest.raises(ModelPackageError, match="cannot be read"):
        only(engines).require_right(weights)
