"""A reduced precision is measured before it serves: on the CPU, on golden images and on those of the site."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import helper

from appliance.backends.openvino_backend import OpenVinoBackend
from appliance.errors import BackendUnavailable, ModelPackageError, VerificationFailed
from appliance.manifest.manifest import Manifest, Precision
from appliance.modelrepo.package import ModelPackage
from appliance.pipeline.calibration import FEWEST, SiteImages, choose_images
from appliance.pipeline.model import Model
from appliance.pipeline.networks import graph_cache, place_of
from appliance.pipeline.rehearsal import reference_of, rehearse, require_passed
from appliance.pipeline.verification import Verification
from appliance.pipeline.verifier import Verifier
from tests.support.dicom_factory import Subject, mr_series, write_datasets
from tests.support.networks import write_network
from tests.unit.pipeline.test_model import SIDE
from tests.unit.pipeline.test_verification import package_with


def silent(line: str) -> None:
    """Progress that nobody follows."""


def package_of_convolutions(folder: Path, **parity: float) -> ModelPackage:
    """As ``package_with`` makes it, with three convolutions that together pass their input on, nearly."""
    content = package_with(folder, **parity).manifest.model_dump(mode="json")
    weights = {
        "w0": np.array([0.7, 0.3], np.float32).reshape(2, 1, 1, 1, 1),
        "w1": np.array([[0.9, 0.1], [0.2, 0.8]], np.float32).reshape(2, 2, 1, 1, 1),
        "w2": np.array([1.1, 0.83], np.float32).reshape(1, 2, 1, 1, 1),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a"]),
        helper.make_node("Conv", ["a", "w1"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["probability"]),
    ]
    for entry in content["weights"]:
        path = write_network(folder / entry["file"], nodes, shape=(1, 1, SIDE, SIDE, SIDE), constants=weights)
        entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.yaml").write_text(yaml.safe_dump(content))
    return ModelPackage(Manifest.model_validate(content), folder, folder)


def series(folder: Path, number: int, *, bright: bool = True) -> list[Path]:
    """A block, the brighter the higher the number."""
    voxels = np.zeros((40, 44, 48), np.uint16)
    if bright:
        voxels[8:30, 10:30, 12 : 30 + number] = 1000 + 100 * number
    return write_datasets(mr_series(voxels, subject=Subject(seed=f"series {number}")), folder / str(number))


def site_images(package: ModelPackage, folder: Path, count: int = FEWEST) -> SiteImages:
    with reference_of(package, threads=1, cache=folder / "cache") as reference:
        candidates = [series(folder / "images", number) for number in range(count)]
        return choose_images(reference, candidates, Counter(), silent)


def rehearsal(package: ModelPackage, precision: Precision, folder: Path, site: SiteImages | None) -> Verification:
    with reference_of(package, threads=1, cache=folder / "cache") as reference:
        return rehearse(reference, precision, site, threads=1, cache=folder / "cache", progress=silent)


def quantize(package: ModelPackage, folder: Path, site: SiteImages, *, factor: float = 1.0) -> None:
    graphs = graph_cache(folder / "cache")
    with reference_of(package, threads=1, cache=folder / "cache") as reference:
        for stage in package.manifest.stages:
            (sha256,) = {w.sha256 for w in package.manifest.weights if w.file == stage.weights}
            graphs.quantized(
                package.folder / stage.weights,
                sha256,
                place=place_of(package, stage),
                calibration=f"{site.sha256} × {factor}",
                images=len(site.images),
                tensors=(tensor * np.float32(factor) for tensor in site.tensors(reference, stage)),
            )


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_rounding_is_measured_on_every_cpu(precision: Precision, tmp_path: Path) -> None:
    """Not zero, or nothing was rounded; and what the manifest allows decides."""
    found = rehearsal(package_of_convolutions(tmp_path / "package"), precision, tmp_path, None)
    (case,) = found.cases
    assert case.case == "ball"
    assert case.output_difference is not None and 1e-5 < case.output_difference < 0.02
    assert found.passed and found.precision == precision
    require_passed(found)
    strict = rehearsal(
        package_of_convolutions(tmp_path / "strict", max_output_difference=1e-6), precision, tmp_path, None
    )
    with pytest.raises(VerificationFailed, match=f"loses too much in {precision}.*ball: the output differs by"):
        require_passed(strict)


def test_int8_is_calibrated_measured_and_then_serves(tmp_path: Path) -> None:
    """On both CPU backends, each after its golden cases; calibrated anew, the model is verified anew."""
    package = package_of_convolutions(tmp_path / "package")
    site = site_images(package, tmp_path)
    quantize(package, tmp_path, site)
    found = rehearsal(package, "int8", tmp_path, site)
    assert [case.case for case in found.cases] == ["ball", *(f"image {n} of this site" for n in (1, 2, 3))]
    assert found.passed, found.failures
    assert 1e-4 < max(case.output_difference or 0 for case in found.cases) < 0.05
    seen: list[Verification] = []

    def verifier() -> Verifier:
        return Verifier(
            tmp_path / "verified", threads=1, cache=tmp_path / "cache", progress=silent, observe=seen.append
        )

    for backend in ("openvino", "onnxruntime"):
        model = Model(package, threads=1, cache=tmp_path / "cache", backends=[backend], precision="int8")  # type: ignore[list-item]
        assert model.open(verifier().require) == backend
        model.close()
    assert [(one.precision, one.passed) for one in seen] == [("int8", True)] * 2
    assert len(list((tmp_path / "verified").iterdir())) == 2
    quantize(package, tmp_path, site, factor=1.1)
    model = Model(package, threads=1, cache=tmp_path / "cache", backends=["onnxruntime"], precision="int8")
    model.open(verifier().require)
    model.close()
    assert len(list((tmp_path / "verified").iterdir())) == 3


def test_without_calibration_int8_is_refused_with_the_command(tmp_path: Path) -> None:
    package = package_of_convolutions(tmp_path / "package")
    model = Model(package, threads=1, cache=tmp_path / "cache", backends=["onnxruntime"], precision="int8")
    with pytest.raises(BackendUnavailable, match=r"models convert bright/1\.0\.0 --precision int8 --calibrate FOLDER"):
        model.open()


def test_a_stage_is_calibrated_with_what_the_stages_before_leave_it(tmp_path: Path) -> None:
    """The second stage sees the box that the first one found, not the whole image."""
    package = package_of_convolutions(tmp_path / "package")
    site = site_images(package, tmp_path)
    first, second = package.manifest.stages
    with reference_of(package, threads=1, cache=tmp_path / "cache") as reference:
        whole, cut = next(site.tensors(reference, first)), next(site.tensors(reference, second))
    assert whole.shape == cut.shape == (1, 1, SIDE, SIDE, SIDE)
    assert cut.mean() > 2 * whole.mean()


def test_unsuitable_images_are_left_out_and_counted(tmp_path: Path) -> None:
    package = package_of_convolutions(tmp_path / "package")
    candidates = [series(tmp_path / "images", number, bright=number != 1) for number in range(4)]
    with reference_of(package, threads=1, cache=tmp_path / "cache") as reference:
        site = choose_images(reference, candidates, Counter({"Modality is CT": 2}), silent)
    assert len(site.images) == 3
    assert site.left_out["Modality is CT"] == 2
    assert sum(site.left_out.values()) == 3


def test_too_few_images_are_an_error_that_says_why(tmp_path: Path) -> None:
    package = package_of_convolutions(tmp_path / "package")
    candidates = [series(tmp_path / "images", number, bright=number > 0) for number in range(3)]
    with (
        reference_of(package, threads=1, cache=tmp_path / "cache") as reference,
        pytest.raises(ModelPackageError, match=r"found 2 that it can judge; left out \(1\): .*expected at least 3"),
    ):
        choose_images(reference, candidates, Counter(), silent)


def test_other_images_have_another_hash(tmp_path: Path) -> None:
    package = package_of_convolutions(tmp_path / "package")
    assert site_images(package, tmp_path).sha256 != site_images(package, tmp_path, 4).sha256


def test_openvino_makes_bfloat16_itself(tmp_path: Path) -> None:
    """By its own instructions: it is given the network of the package."""
    if OpenVinoBackend.unavailable("bfloat16") is not None:
        pytest.skip("this CPU has no bfloat16 instructions")
    package = package_of_convolutions(tmp_path / "package")
    model = Model(package, threads=1, cache=tmp_path / "cache", backends=["openvino"], precision="bfloat16")
    model.open()
    model.close()
    assert not (tmp_path / "cache" / "graphs").exists()


def test_each_stage_has_its_own_calibration(tmp_path: Path) -> None:
    """Though both run the same network here."""
    package = package_of_convolutions(tmp_path / "package")
    quantize(package, tmp_path, site_images(package, tmp_path))
    paths = sorted((tmp_path / "cache" / "graphs").glob("*/network.onnx"))
    assert len(paths) == 2
    for path in paths:
        assert "QuantizeLinear" in {node.op_type for node in onnx.load(path).graph.node}
