"""Every form of every kind of source is valid, and says to others what it says to us."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from appliance.domain.codes import Code
from appliance.domain.forms import FORMS
from appliance.results.objects import write_results
from tests.support.dicom_factory import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Stack,
    chest_pixels,
    ct_series,
    ct_voxels,
    enhanced_ct,
    enhanced_mr,
    mr_series,
    mr_voxels,
    radiograph,
    write_datasets,
)
from tests.unit.results.examples import Example, radiograph_example, volume_example
from tests.unit.results.validity import errors_of, needs_validators, rendered

pytestmark = needs_validators

_TILTED = Stack(*AXIAL, spacing_mm=(5.0, 0.5, 0.5), step_mm=(0.0, 1.3, 5.0))
_VARIABLE = replace(_TILTED, places=(0, 0.8, 1.6, 1.8, 3.2, 4.6))

SYNTHETIC: dict[str, Callable[[Path], Example]] = {
    "mr": lambda folder: volume_example(
        write_datasets(mr_series(mr_voxels(6, 33, 31), Stack(*SAGITTAL, spacing_mm=(2.0, 0.9, 0.8))), folder)
    ),
    "ct-tilted": lambda folder: volume_example(write_datasets(ct_series(ct_voxels(6, 40, 40), _TILTED), folder)),
    "ct-variable": lambda folder: volume_example(write_datasets(ct_series(ct_voxels(6, 40, 40), _VARIABLE), folder)),
    "enhanced-ct": lambda folder: volume_example(write_datasets([enhanced_ct(ct_voxels(5, 40, 40))], folder)),
    "enhanced-mr": lambda folder: volume_example(
        write_datasets([enhanced_mr(mr_voxels(5, 40, 40), Stack(*CORONAL))], folder)
    ),
    "cr": lambda folder: radiograph_example(write_datasets([radiograph(chest_pixels(90, 71), "CR")], folder)[0]),
    "cr-bare": lambda folder: radiograph_example(
        write_datasets([radiograph(chest_pixels(90, 70), "CR", None, None, "MONOCHROME1")], folder)[0]
    ),
    "dx": lambda folder: radiograph_example(write_datasets([radiograph(chest_pixels(90, 70))], folder)[0]),
}
SINGLES = "singles_pydicom-data"


def _check(example: Example, folder: Path) -> None:
    folder.mkdir()
    objects = write_results(example.result, example.sources, example.context, folder, FORMS)
    assert [item.kind for item in objects] == list(FORMS)
    assert {item.kind: errors_of(item.path) for item in objects} == {form: [] for form in FORMS}
    html = rendered(objects[0].path)
    for words in ("Imaging Measurement Report", "Example network", "AI result, for research use, verify"):
        assert words in html


@pytest.mark.parametrize("name", SYNTHETIC)
def test_synthetic_sources(name: str, tmp_path: Path) -> None:
    _check(SYNTHETIC[name](tmp_path / "in"), tmp_path / "out")


@pytest.mark.parametrize("outlined", [True, False], ids=["beside a segment", "alone"])
def test_what_was_looked_for_and_is_absent(outlined: bool, tmp_path: Path) -> None:
    """Measured as nothing, without a segment: the report says 0 ml, of all images; the other objects are as ever."""
    example = volume_example(write_datasets(ct_series(ct_voxels(6, 40, 40), _TILTED), tmp_path / "in"))
    (brain,) = example.result.findings
    (segment,) = example.result.segments
    blood = Code("hyperdense", "99EXAMPLE", "Hyperdense voxels")
    absent = replace(brain, tracking_id="blood", finding=blood, segment=None)
    absent = replace(absent, measurements=(replace(brain.measurements[0], value=0.0),))
    words = "Blood: the voxels from 50 to 90 HU within Brain."
    result = replace(
        example.result,
        findings=(brain, absent) if outlined else (absent,),
        segments=(replace(segment, description=words),) if outlined else (),
        notes=(words,),
    )
    (tmp_path / "out").mkdir()
    objects = write_results(result, example.sources, example.context, tmp_path / "out")
    assert [item.kind for item in objects] == (["sr", "sc", "seg"] if outlined else ["sr", "sc"])
    assert {item.kind: errors_of(item.path) for item in objects} == {item.kind: [] for item in objects}
    html = rendered(objects[0].path)
    assert "Hyperdense voxels" in html and "0.0" in html and words in html
    groups = dcmread(objects[0].path).ContentSequence[-2].ContentSequence
    images = [item for item in groups[-1].ContentSequence if item.ValueType == "IMAGE"]
    assert len(images) == 6
    if outlined:
        (written,) = dcmread(objects[2].path).SegmentSequence
        assert written.SegmentDescription == words


def test_missing_demographics_are_written_empty(tmp_path: Path) -> None:
    source = radiograph(chest_pixels(40, 30), "CR")
    keywords = (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
        *("AccessionNumber", "ReferringPhysicianName", "StudyDescription", "SeriesNumber", "InstanceNumber"),
        "SpecificCharacterSet",
    )
    for keyword in keywords:
        delattr(source, keyword)
    _check(radiograph_example(write_datasets([source], tmp_path / "in")[0]), tmp_path / "out")
    for form in FORMS:
        written = dcmread(tmp_path / "out" / f"{form}-1.dcm")
        assert all(written[keyword].is_empty for keyword in keywords[:9])


@pytest.mark.shared_data
def test_real_mr_series(shared_data_dir: Path, tmp_path: Path) -> None:
    paths = sorted((shared_data_dir / "mr_t1_SAG-anon").glob("*.dcm"))
    _check(volume_example(paths), tmp_path / "out")


@pytest.mark.shared_data
def test_real_tilted_ct_with_three_spacings(shared_data_dir: Path, tmp_path: Path) -> None:
    paths = list((shared_data_dir / "ct_head_GE_dcm_qa_ct").glob("*.dcm"))
    _check(volume_example(paths), tmp_path / "out")


@pytest.mark.shared_data
def test_real_enhanced_ct(shared_data_dir: Path, tmp_path: Path) -> None:
    """A perfusion map whose colours, which would keep models from judging it, are taken away."""
    dataset = dcmread(shared_data_dir / SINGLES / "eCT_Supplemental.dcm")
    dataset.PixelPresentation = "MONOCHROME"
    dataset.save_as(tmp_path / "in.dcm")
    _check(volume_example([tmp_path / "in.dcm"]), tmp_path / "out")


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["RG1_J2KI.dcm", "RG3_J2KR.dcm"])
def test_real_radiograph(name: str, shared_data_dir: Path, tmp_path: Path) -> None:
    _check(radiograph_example(shared_data_dir / SINGLES / name), tmp_path / "out")
