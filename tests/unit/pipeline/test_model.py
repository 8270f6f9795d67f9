"""A model of two stages on networks that pass their input on: numbers, times, and what is left when it cannot open."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from appliance.backends.base import NetworkSpec, Session
from appliance.backends.onnxruntime_backend import _OnnxRuntimeSession as OnnxRuntimeSession
from appliance.backends.openvino_backend import OpenVinoBackend
from appliance.domain.image import Image
from appliance.domain.result import InferenceResult
from appliance.domain.states import Stage
from appliance.errors import BackendUnavailable, InferenceTimeout, ModelPackageError, UnsuitableImage
from appliance.manifest.manifest import Manifest
from appliance.modelrepo.package import ModelPackage
from appliance.pipeline.model import Model
from tests.support.dicom_factory import CORONAL, Stack, mr_series, write_datasets
from tests.support.networks import write_network

SIDE = 64
CODE = {"value": "1", "scheme": "99X", "meaning": "Something"}
SHAPE = (60, 80, 70)
STACK = Stack(*CORONAL, spacing_mm=(2.0, 1.5, 1.25))
SEMI_AXES_MM = (38.0, 40.0, 31.0)
CENTRE = (27.3, 41.2, 33.6)


def write_package(folder: Path, runtime: dict[str, Any]) -> ModelPackage:
    """``locate`` finds the box of what is bright, ``segment`` outlines it in there; both know the grey only."""
    folder.mkdir()
    for name in ("locate.onnx", "segment.onnx"):
        node = helper.make_node("Identity", ["image"], ["probability"])
        write_network(folder / name, [node], shape=(1, 1, SIDE, SIDE, SIDE))
    return package_in(folder, runtime)


def package_in(folder: Path, runtime: dict[str, Any]) -> ModelPackage:
    """The package whose weights lie in a folder, whatever they are."""
    resize = {"step": "resize", "shape": [SIDE] * 3, "interpolation": "nearest"}
    network = {"input_tensor": "image", "input_shape": [1, 1, SIDE, SIDE, SIDE], "output_tensor": "probability"}
    content = {
        "schema_version": 1,
        "name": "bright",
        "version": "1.0.0",
        "title": "What is bright",
        "algorithm": {"name": "bright", "version": "1", "manufacturer": "us", "family": CODE},
        "intended_use": "tests",
        "licence": "MIT",
        "scope": "series",
        "match": {"modality": ["MR"], "sop_class_uid": ["1.2.840.10008.5.1.4.1.1.4"]},
        "input": {"kind": "volume"},
        "weights": [
            {
                "file": name,
                "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
                "source": {"kind": "package"},
            }
            for name in ("locate.onnx", "segment.onnx")
        ],
        "stages": [
            {
                "name": "locate",
                "weights": "locate.onnx",
                **network,
                "steps": [
                    {"step": "orient", "axes": "RAS"},
                    resize,
                    {"step": "scale_quantiles", "low": 0.005, "high": 0.995},
                ],
                "box": {"threshold": 0.5},
            },
            {
                "name": "segment",
                "weights": "segment.onnx",
                **network,
                "steps": [
                    {"step": "orient", "axes": "RAS"},
                    {"step": "crop_to_box", "margin": 0.1},
                    resize,
                    {"step": "scale_quantiles", "low": 0.005, "high": 0.995, "of_stage": "locate"},
                ],
            },
        ],
        "readout": {
            "kind": "threshold",
            "restore": "linear",
            "structures": [
                {
                    "label": "Bright",
                    "channel": 0,
                    "category": CODE,
                    "structure": CODE,
                    "color": [255, 0, 0],
                    "measurements": [{"quantity": "volume_ml", "concept": CODE, "unit": CODE}],
                }
            ],
        },
        "runtime": {"backends": ["onnxruntime"], "time_limit_s": 60} | runtime,
    }
    return ModelPackage(Manifest.model_validate(content), folder, folder)


def ellipsoid(model: Model, folder: Path) -> Image:
    """A bright ellipsoid whose axes are those of the coronal stack, off its middle."""
    axes = np.indices(SHAPE)
    inside = sum(
        ((axis - centre) * mm / semi_axis) ** 2
        for axis, centre, mm, semi_axis in zip(axes, CENTRE, STACK.spacing_mm, SEMI_AXES_MM, strict=True)
    )
    return model.load(write_datasets(mr_series(((inside < 1) * 1000).astype(np.uint16), STACK), folder)).image


def judged(package: ModelPackage, folder: Path, stages: dict[str, float] | None = None) -> InferenceResult:
    model = Model(package, threads=1, cache=folder / "cache")
    image = ellipsoid(model, folder / "images")
    model.open()
    try:
        return model.judge(image, {} if stages is None else stages)
    finally:
        model.close()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_volume_of_an_ellipsoid(backend: str, tmp_path: Path) -> None:
    """Through two stages, a box and three grids, within 1 % of 4/3·π·abc; its outline lies where the ellipsoid does."""
    result = judged(write_package(tmp_path / "package", {"backends": [backend]}), tmp_path)
    (finding,) = result.findings
    assert finding.measurements[0].value == pytest.approx(4 / 3 * np.pi * np.prod(SEMI_AXES_MM) / 1000, rel=0.01)
    middle = np.argwhere(result.segments[0].mask).mean(axis=0)
    assert np.all(np.abs(middle - CENTRE) < 0.2)


def test_the_result_says_what_made_it(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package", {})
    parameters = dict(judged(package, tmp_path).algorithm.parameters)
    assert parameters["model package"] == "bright/1.0.0"
    assert parameters["SHA-256 of segment.onnx"] == package.manifest.weights[1].sha256
    assert parameters["backend"].startswith("onnxruntime 1.")
    assert parameters["precision"] == "float32"
    assert parameters["verification"] == "not done"


def test_times_add_up_to_those_of_the_stages(tmp_path: Path) -> None:
    """Loading that was timed before is kept."""
    stages = {str(Stage.LOAD): 100.0, str(Stage.TO_INFER): 200.0}
    judged(write_package(tmp_path / "package", {}), tmp_path, stages)
    assert set(stages) == {Stage.LOAD, Stage.TO_INFER, Stage.INFER, Stage.READ_OUT}
    assert 200 < stages[Stage.TO_INFER] < 260
    assert 100 < stages[Stage.LOAD] < 160
    assert stages[Stage.INFER] > 0 and stages[Stage.READ_OUT] > 0


def test_the_time_limit_is_that_of_all_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first took is not there for the second."""
    limits = []

    def run(session: Session, tensor: np.ndarray, *, time_limit_s: float) -> np.ndarray:
        limits.append(time_limit_s)
        session.seconds = 50.0
        return tensor

    package = write_package(tmp_path / "package", {})
    model = Model(package, threads=1, cache=tmp_path / "cache")
    image = ellipsoid(model, tmp_path / "images")
    model.open()
    monkeypatch.setattr(Session, "run", run)
    model.judge(image, {})
    model.close()
    assert limits == [60.0, 10.0]


def test_a_limit_that_no_network_keeps(tmp_path: Path) -> None:
    with pytest.raises(InferenceTimeout, match=r"runtime\.time_limit_s"):
        judged(write_package(tmp_path / "package", {"time_limit_s": 1e-9}), tmp_path)


def test_an_empty_image_is_refused(tmp_path: Path) -> None:
    model = Model(write_package(tmp_path / "package", {}), threads=1, cache=tmp_path)
    image = model.load(write_datasets(mr_series(np.full(SHAPE, 7, np.uint16)), tmp_path / "images")).image
    model.open()
    with pytest.raises(UnsuitableImage) as caught:
        model.judge(image, {})
    model.close()
    assert caught.value.reason == "constant-image"


def test_what_was_opened_is_closed_when_a_later_network_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that cannot run must not keep the memory of its first network."""
    closed: list[str] = []
    write_package(tmp_path / "package", {})
    (tmp_path / "package" / "segment.onnx").write_bytes(b"not a network")
    model = Model(package_in(tmp_path / "package", {}), threads=1, cache=tmp_path)
    monkeypatch.setattr(OnnxRuntimeSession, "close", lambda session: closed.append(session.spec.name))
    with pytest.raises(ModelPackageError, match=r"segment\.onnx"):
        model.open()
    assert closed == ["bright/locate"]


def test_no_backend_for_the_precision(tmp_path: Path) -> None:
    model = Model(write_package(tmp_path / "package", {"precision": "bfloat16"}), threads=1, cache=tmp_path)
    with pytest.raises(BackendUnavailable, match="onnxruntime on the CPU does not run bfloat16"):
        model.open()


def test_a_backend_that_cannot_load_a_network_leaves_it_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a runtime lacks an operator: the model serves all the same, and the log says on what and why."""

    def lacking(backend: OpenVinoBackend, model: Path, spec: NetworkSpec) -> Session:
        raise ModelPackageError("segment.onnx has an operator that OpenVINO lacks")

    monkeypatch.setattr(OpenVinoBackend, "_open", lacking)
    package = write_package(tmp_path / "package", {"backends": ["openvino", "onnxruntime"]})
    model = Model(package, threads=1, cache=tmp_path)
    assert model.open() == "onnxruntime"
    assert "runs on onnxruntime, because: segment.onnx has an operator that OpenVINO lacks" in caplog.text
    model.close()


def test_no_backend_at_all_names_every_reason(tmp_path: Path) -> None:
    write_package(tmp_path / "package", {"backends": ["openvino", "onnxruntime"]})
    (tmp_path / "package" / "segment.onnx").write_bytes(b"not a network")
    model = Model(
        package_in(tmp_path / "package", {"backends": ["openvino", "onnxruntime"]}), threads=1, cache=tmp_path
    )
    with pytest.raises(BackendUnavailable, match=r"OpenVINO.*ONNX Runtime"):
        model.open()
