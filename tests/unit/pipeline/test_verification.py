"""A model serves only after its golden images came out as the reference's do, on the backend that will serve."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from appliance.backends.openvino_backend import _OpenVinoSession as OpenVinoSession
from appliance.errors import BackendUnavailable, VerificationFailed, WeightsUnavailable
from appliance.imaging.nifti import read_nifti
from appliance.manifest.manifest import Manifest
from appliance.modelrepo.package import ModelPackage
from appliance.pipeline.model import Model
from appliance.pipeline.verification import Verification
from appliance.pipeline.verifier import Verifier
from tests.unit.pipeline.test_model import write_package

SHAPE = (64, 72, 56)
RADIUS = 20.0
VOLUME_ML = 4 / 3 * np.pi * RADIUS**3 * 1.5 / 1000
RAS = np.array([[-1.0, 0, 0, 30], [0, 1, 0, -40], [0, 0, 1.5, 10], [0, 0, 0, 1]])


def write_ball(path: Path) -> Path:
    axes = np.indices(SHAPE) - np.array([30, 38, 26]).reshape(3, 1, 1, 1)
    inside = (axes**2).sum(axis=0) < RADIUS**2
    nibabel.save(nibabel.Nifti1Image(inside.astype(np.int16) * 900, RAS), path)
    return path


def package_with(
    folder: Path, *, backends: tuple[str, ...] = ("openvino", "onnxruntime"), value: float = VOLUME_ML, **parity: float
) -> ModelPackage:
    """The package of two stages that outlines what is bright, and a golden ball."""
    package = write_package(folder, {"backends": list(backends)})
    (folder / "golden").mkdir()
    ball = write_ball(folder / "golden" / "ball.nii")
    content: dict[str, Any] = package.manifest.model_dump(mode="json")
    content["golden"] = [
        {
            "name": "ball",
            "image": {
                "sha256": hashlib.sha256(ball.read_bytes()).hexdigest(),
                "format": "nifti",
                "modality": "MR",
                "source": {"kind": "package", "file": "ball.nii"},
            },
            "expect": [{"structure": "Bright", "quantity": "volume_ml", "value": value, "tolerance": 0.02}],
        }
    ]
    content["parity"] = parity
    (folder / "manifest.yaml").write_text(yaml.safe_dump(content))
    return ModelPackage(Manifest.model_validate(content), folder, folder)


class Bench:
    """Opens models as a worker does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: list[Verification] = []
        self.lines: list[str] = []

    def verifier(self) -> Verifier:
        return Verifier(
            self.root / "verified",
            threads=1,
            cache=self.root / "cache",
            progress=self.lines.append,
            observe=self.seen.append,
        )

    def open(self, package: ModelPackage, **options: Any) -> Model:
        model = Model(package, threads=1, cache=self.root / "cache", **options)
        model.open(self.verifier().require)
        model.close()
        return model


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def lie(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """OpenVINO answers, but not what the network says."""
    honest = OpenVinoSession._run

    def run(session: OpenVinoSession, tensor: NDArray[np.float32], time_limit_s: float) -> NDArray[np.float32]:
        return np.ascontiguousarray(change(honest(session, tensor, time_limit_s)))

    monkeypatch.setattr(OpenVinoSession, "_run", run)


def test_what_agrees_serves_and_says_how_well(bench: Bench, tmp_path: Path) -> None:
    model = bench.open(package_with(tmp_path / "package"))
    found = model.verification
    assert found is not None and found.passed
    assert found.backend.startswith("openvino ") and found.precision == "float32"
    assert found.summary() == "passed: 1 golden case(s), Dice at least 1.0000, sizes within 0.00%"
    (case,) = found.cases
    assert case.output_difference is not None and case.output_difference < 1e-5
    assert case.measured[0].value == pytest.approx(VOLUME_ML, rel=0.02)
    assert bench.seen == [found]


def test_it_is_done_once_for_a_machine(bench: Bench, tmp_path: Path) -> None:
    """And again for what is another: the backend, or the package."""
    package = package_with(tmp_path / "package")
    bench.open(package)
    assert len(bench.lines) == 2  # the reference, and the backend
    bench.open(package)
    assert len(bench.lines) == 2 and len(bench.seen) == 2
    bench.open(package, backends=["onnxruntime"])
    assert len(bench.lines) == 3
    bench.open(package_with(tmp_path / "stricter", min_dice=0.999))
    assert len(bench.lines) == 5
    assert len(bench.verifier().known(package)) == 3


def test_a_backend_that_is_off_leaves_the_model_to_the_next(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The mask moves by two voxels: the size is right and the place is not."""
    lie(monkeypatch, lambda output: np.roll(output, 2, axis=2))
    model = bench.open(package_with(tmp_path / "package"))
    assert [(found.backend.split()[0], found.passed) for found in bench.seen] == [
        ("openvino", False),
        ("onnxruntime", True),
    ]
    assert model.verification is bench.seen[1]
    assert "at least 0.99 is wanted" in bench.seen[0].failures[0]
    assert "does not pass its golden cases on openvino" in caplog.text


def test_what_failed_is_remembered(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart does not let it through, though it would pass now; verifying anew does."""
    package = package_with(tmp_path / "package", backends=("openvino",))
    with monkeypatch.context() as liar:
        lie(liar, lambda output: output * 0.9 + 0.06)
        with pytest.raises(VerificationFailed, match=r"Bright: (Dice|size differs|volume_ml is)|output differs"):
            bench.open(package_with(tmp_path / "other", backends=("openvino",), max_output_difference=0.01))
        lie(liar, lambda output: np.roll(output, 9, axis=2))
        with pytest.raises(VerificationFailed):
            bench.open(package)
    with pytest.raises(VerificationFailed):
        bench.open(package)
    model = Model(package, threads=1, cache=tmp_path / "cache")
    model.open(bench.verifier().require_anew)
    model.close()
    bench.open(package)


def test_the_reference_itself_has_to_find_what_is_expected(bench: Bench, tmp_path: Path) -> None:
    """When the pipeline around the network changes, all backends agree and all are wrong."""
    package = package_with(tmp_path / "package", value=VOLUME_ML * 1.1)
    with pytest.raises(BackendUnavailable, match=r"volume_ml is .*, expected .* within 2\.0%"):
        bench.open(package)
    assert [found.passed for found in bench.seen] == [False, False]


def test_a_refusal_is_a_failure_with_its_reason(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lie(monkeypatch, np.zeros_like)
    with pytest.raises(VerificationFailed, match="the backend refuses it: the model did not find what it looks for"):
        bench.open(package_with(tmp_path / "package", backends=("openvino",)))


def test_without_its_golden_image_it_does_not_open(bench: Bench, tmp_path: Path) -> None:
    package = package_with(tmp_path / "package")
    image = package.manifest.golden[0].image
    source = {"kind": "pypi", "project": "heads", "version": "1", "member": "ball.nii"}
    content = package.manifest.model_dump(mode="json")
    content["golden"][0]["image"] = image.model_dump(mode="json") | {"source": source}
    with pytest.raises((WeightsUnavailable, BackendUnavailable), match="appliance models fetch bright"):
        bench.open(ModelPackage(Manifest.model_validate(content), package.folder, package.folder))


def test_a_package_without_golden_cases_serves_and_says_so(bench: Bench, tmp_path: Path) -> None:
    package = write_package(tmp_path / "package", {})
    (package.folder / "manifest.yaml").write_text(yaml.safe_dump(package.manifest.model_dump(mode="json")))
    found = bench.open(package).verification
    assert found is not None and found.passed
    assert found.summary() == "no golden cases"


def test_a_damaged_memory_is_done_anew(bench: Bench, tmp_path: Path) -> None:
    package = package_with(tmp_path / "package")
    bench.open(package)
    (remembered,) = (tmp_path / "verified").iterdir()
    remembered.write_bytes(remembered.read_bytes()[:50])
    bench.open(package)
    assert len(bench.lines) == 4


def test_a_volume_lies_where_its_file_says(tmp_path: Path) -> None:
    """NIfTI's axes grow to the right, front and head; DICOM's to the left, back and head."""
    image = read_nifti(write_ball(tmp_path / "ball.nii"), "MR")
    assert image.voxels.shape == SHAPE[::-1]
    middle = np.argwhere(image.voxels > 0).mean(axis=0)
    ras = RAS @ [30, 38, 26, 1]
    assert image.grid.to_patient(middle) == pytest.approx([-ras[0], -ras[1], ras[2]], abs=1e-6)
    assert image.grid.spacing_mm == pytest.approx((1.5, 1, 1))
