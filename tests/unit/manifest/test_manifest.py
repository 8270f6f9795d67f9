"""Manifests: the shipped ones are sound, and each rule is kept by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.errors import ModelPackageError
from appliance.manifest.manifest import Manifest
from appliance.manifest.reader import read_manifest

ENGINES = Path(__file__).parents[3] / "engines"
SHIPPED = sorted(ENGINES.glob("*/*/manifest.yaml"))

CODE = {"value": "1", "scheme": "SCT", "meaning": "Brain"}
STRUCTURE = {
    "label": "Brain",
    "channel": 0,
    "category": CODE,
    "structure": CODE,
    "color": [255, 0, 0],
    "measurements": [{"quantity": "volume_ml", "concept": CODE, "unit": CODE}],
}
PART = {
    **{key: value for key, value in STRUCTURE.items() if key != "channel"},
    "label": "Blood",
    "derived": {"within": "Brain", "min": 50, "max": 90},
    "optional": True,
}
SOUND: dict[str, Any] = {
    "schema_version": 1,
    "name": "brain",
    "version": "1.0.0",
    "title": "Brain",
    "algorithm": {"name": "brain", "version": "1", "manufacturer": "us", "family": CODE},
    "intended_use": "tests",
    "licence": "MIT",
    "scope": "series",
    "match": {"modality": ["MR"], "sop_class_uid": ["1.2.840.10008.5.1.4.1.1.4"]},
    "input": {"kind": "volume"},
    "weights": [{"file": name, "sha256": "0" * 64, "source": {"kind": "package"}} for name in ("a.onnx", "b.onnx")],
    "stages": [
        {
            "name": "locate",
            "weights": "a.onnx",
            "input_tensor": "x",
            "input_shape": [1, 1, 8, 8, 8],
            "steps": [{"step": "resize", "shape": [8, 8, 8], "interpolation": "nearest"}],
            "output_tensor": "y",
            "box": {"threshold": 0.5},
        },
        {
            "name": "segment",
            "weights": "b.onnx",
            "input_tensor": "x",
            "input_shape": [1, 1, 8, 8, 8],
            "steps": [
                {"step": "orient", "axes": "RAS"},
                {"step": "crop_to_box"},
                {"step": "scale_quantiles", "low": 0.1, "high": 0.9, "of_stage": "locate"},
            ],
            "output_tensor": "y",
        },
    ],
    "readout": {"kind": "threshold", "structures": [STRUCTURE]},
    "runtime": {"backends": ["onnxruntime"], "time_limit_s": 10},
}


def changed(place: str, value: Any) -> dict[str, Any]:
    """The sound manifest with another value at a dotted place."""
    content = copy.deepcopy(SOUND)
    *way, last = (int(part) if part.isdigit() else part for part in place.split("."))
    target: Any = content
    for part in way:
        target = target[part]
    target[last] = value
    return content


def read(tmp_path: Path, content: object) -> Manifest:
    path = tmp_path / "manifest.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_manifest(path)


@pytest.mark.parametrize("path", SHIPPED, ids=[path.parts[-3] for path in SHIPPED])
def test_shipped_manifests_are_sound(path: Path) -> None:
    manifest = read_manifest(path)
    assert manifest.key == "/".join(path.parts[-3:-1])
    assert "research use" in manifest.intended_use


def test_there_are_shipped_manifests() -> None:
    assert len(SHIPPED) >= 2


def test_the_sound_one(tmp_path: Path) -> None:
    manifest = read(tmp_path, SOUND)
    assert manifest.key == "brain/1.0.0"
    assert manifest.runtime.precision == "float32"


EXPECTATION = {"structure": "Brain", "quantity": "volume_ml", "value": 1400.0}
GOLDEN = {
    "name": "a head",
    "image": {
        "sha256": "0" * 64,
        "format": "nifti",
        "modality": "MR",
        "source": {"kind": "debian", "package": "mricron-data", "member": "usr/share/head.nii.gz"},
    },
    "expect": [EXPECTATION],
}


def test_free_axes_and_golden_cases(tmp_path: Path) -> None:
    content = changed("stages.0.profile", {"min": [1, 1, 4, 4, 4], "typical": [1, 1, 8, 4, 8]})
    manifest = read(tmp_path, content | {"golden": [GOLDEN]})
    assert manifest.stages[0].profile is not None and manifest.stages[1].profile is None
    assert manifest.golden[0].expect[0].tolerance == 0.01


RESAMPLE = {"step": "resample", "spacing_mm": 1.0, "axes": "LIA"}

BROKEN = {
    "profile that shrinks": (
        "stages.0.profile",
        {"min": [1, 1, 4, 4, 4], "typical": [1, 1, 9, 8, 8]},
        "stage locate: the profile must grow from min over typical to input_shape",
    ),
    "profile with other axes": (
        "stages.0.profile",
        {"min": [1, 1, 4, 4], "typical": [1, 1, 8, 8]},
        "stage locate: the profile must grow from min over typical to input_shape",
    ),
    "expectation of nothing": (
        "golden",
        [GOLDEN | {"expect": [EXPECTATION | {"structure": "Lung"}]}],
        "golden case 'a head' expects volume_ml of 'Lung', which the readout does not measure",
    ),
    "two golden cases of one name": ("golden", [GOLDEN, GOLDEN], "two golden cases have the same name"),
    "unknown field": ("speed", 1, "speed: Extra inputs are not permitted"),
    "unknown field below": ("input.speed", 1, "input.speed: Extra inputs are not permitted"),
    "version of the format": ("schema_version", 2, "schema_version: Input should be 1"),
    "name with a path": ("name", "../brain", "name: String should match pattern"),
    "version": ("version", "1.0", "version: String should match pattern"),
    "scope": ("scope", "study", "scope: Input should be 'instance' or 'series'"),
    "code that is too long": (
        "algorithm.family.value",
        "1" * 17,
        "algorithm.family.value: String should have at most 16",
    ),
    "no modality": ("match.modality", [], "match.modality: List should have at least 1 item"),
    "hash": ("weights.0.sha256", "ABC", "weights.0.sha256: String should match pattern"),
    "file outside": ("weights.0.file", "../a.onnx", "weights.0.file: String should match pattern"),
    "source": ("weights.0.source.kind", "http", "weights.0.source"),
    "same file twice": ("weights.1.file", "a.onnx", "two weights files have the same name"),
    "stage with unknown weights": (
        "stages.0.weights",
        "c.onnx",
        "stage locate runs 'c.onnx', weights are ['a.onnx', 'b.onnx']",
    ),
    "two stages of one name": ("stages.1.name", "locate", "two stages are called 'locate'"),
    "axes": ("stages.0.input_shape", [1, 1, 8, 8], "stage locate: input_shape must have 5 entries for a volume"),
    "projection with volume axes": ("input.kind", "projection", "stage locate: input_shape must have 4 entries"),
    "unknown step": ("stages.0.steps.0.step", "blur", "stages.0.steps.0: Input tag 'blur'"),
    "resize to other axes": ("stages.0.steps.0.shape", [8, 8], "resize to [8, 8] does not have 3 axes"),
    "area of a volume's samples": (
        "stages.0.steps.0.interpolation",
        "area",
        "stage locate: resize with interpolation area is for radiographs",
    ),
    "resize to nothing": (
        "stages.0.steps.0.shape",
        [8, 0, 8],
        "steps.0.resize.shape.1: Input should be greater than or equal to 1",
    ),
    "resize to another size": (
        "stages.0.steps.0.shape",
        [8, 8, 9],
        "resizes to [8, 8, 9], input_shape ends with [8, 8, 8]",
    ),
    "box too late": ("stages.0.box", None, "stage segment: crop_to_box needs an earlier stage with a box"),
    "box at the end": ("stages.1.box", {"threshold": 0.5}, "the last stage is read out, it cannot be a locating stage"),
    "quantiles of a later stage": ("stages.1.steps.2.of_stage", "segment", "'segment', which is no earlier stage"),
    "quantiles the wrong way": ("stages.1.steps.2.low", 0.95, "low is 0.95, it must be below high, 0.9"),
    "axes of orient": ("stages.1.steps.0.axes", "XYZ", "orient.axes: String should match pattern"),
    "knots that do not ascend": (
        "stages.1.steps.2",
        {"step": "piecewise_linear", "knots": [[0, 0], [-5, 1], [7, 2]]},
        "the values of the knots must ascend, they are 0, -5, 7",
    ),
    "one knot": (
        "stages.1.steps.2",
        {"step": "piecewise_linear", "knots": [[0, 0]]},
        "knots: List should have at least 2 items",
    ),
    "threshold": ("readout.threshold", 1.5, "readout.threshold: Input should be less than 1"),
    "labels between which is interpolated": (
        "readout",
        {"kind": "labels", "structures": [STRUCTURE | {"channel": 1}]},
        "with kind labels restore must be nearest",
    ),
    "background as a structure": ("readout.kind", "argmax", "with kind argmax channel 0 is the background"),
    "no structure": ("readout.structures", [], "readout.structures: List should have at least 1 item"),
    "two structures of one label": ("readout.structures", [STRUCTURE, STRUCTURE], "two structures have the same label"),
    "color": (
        "readout.structures.0.color",
        [0, 0, 256],
        "structures.0.color.2: Input should be less than or equal to 255",
    ),
    "ratio of nothing": (
        "readout.ratios",
        [{"concept": CODE, "numerator": "Brain", "denominator": "Lung", "unit": CODE}],
        "ratio names 'Lung', structures are ['Brain']",
    ),
    "resample after another step": (
        "stages.0.steps",
        [{"step": "orient", "axes": "RAS"}, RESAMPLE],
        "stage locate: resample comes before the other geometric steps, and takes the place of orient",
    ),
    "resample along the same axis twice": (
        "stages.0.steps",
        [RESAMPLE | {"axes": "LRS"}],
        "axes is LRS, it must name one of R and L, one of A and P, one of I and S",
    ),
    "foreground without a profile": (
        "stages.0.steps",
        [{"step": "crop_to_foreground", "level": 1}],
        "stage locate: crop_to_foreground needs a profile, and no resize after it",
    ),
    "foreground of sizes that the stage does not take": (
        "stages.0",
        changed("stages.0.steps", [{"step": "crop_to_foreground", "level": 1, "multiple": 3}])["stages"][0]
        | {"profile": {"min": [1, 1, 4, 4, 4], "typical": [1, 1, 8, 8, 8]}},
        "stage locate: the smallest and largest shape must be multiples of 3",
    ),
    "neither channel nor part": ("readout.structures.0.channel", None, "Brain: give channel or derived, one of them"),
    "channel and part": (
        "readout.structures.0.derived",
        {"within": "Brain", "min": 50, "max": 90},
        "Brain: give channel or derived, one of them",
    ),
    "part of nothing": ("readout.structures", [PART, STRUCTURE], "Blood lies within 'Brain', outlined are []"),
    "part of a part": (
        "readout.structures",
        [STRUCTURE, PART, {**PART, "label": "Clot", "derived": {**PART["derived"], "within": "Blood"}}],
        "Clot lies within 'Blood', outlined are ['Brain']",
    ),
    "part with bounds the wrong way": (
        "readout.structures",
        [STRUCTURE, {**PART, "derived": {"within": "Brain", "min": 90, "max": 50}}],
        "min is 90, it must be below max, 50",
    ),
    "part that is cleaned": (
        "readout.structures",
        [STRUCTURE, {**PART, "components": 1}],
        "Blood: components and fill_holes are for what the network outlines",
    ),
    "ratio to what may be absent": (
        "readout",
        {
            "kind": "threshold",
            "structures": [STRUCTURE, PART],
            "ratios": [{"concept": CODE, "numerator": "Brain", "denominator": "Blood", "unit": CODE}],
        },
        "ratio divides by 'Blood', which is optional",
    ),
    "varying distances without a limit": (
        "input",
        {"kind": "volume", "allow_variable_spacing": True},
        "allow_variable_spacing needs max_slice_spacing_mm",
    ),
    "area of a volume": (
        "readout.structures.0.measurements.0.quantity",
        "area_cm2",
        "Brain: a volume has no area_cm2",
    ),
    "implausible bounds": (
        "readout.structures.0.measurements.0.plausible",
        [2500, 300],
        "the smallest plausible value comes first",
    ),
    "bound that is no number": (
        "match.conditions",
        [{"attribute": "EchoTime", "min": float("nan"), "because": "x"}],
        "match.conditions.0.min: Input should be a finite number",
    ),
    "plausible without end": (
        "readout.structures.0.measurements.0.plausible",
        [300, float("inf")],
        "plausible.1: Input should be a finite number",
    ),
    "no backend": ("runtime.backends", [], "runtime.backends: List should have at least 1 item"),
    "unknown backend": ("runtime.backends", ["magic"], "runtime.backends.0: Input should be"),
    "no time": ("runtime.time_limit_s", 0, "runtime.time_limit_s: Input should be greater than 0"),
    "unknown attribute": (
        "match.conditions",
        [{"attribute": "PatientName", "pattern": ".", "because": "x"}],
        "'PatientName' is not kept at receipt; choose one of",
    ),
    "pattern that does not compile": (
        "match.conditions",
        [{"attribute": "Modality", "pattern": "(", "because": "x"}],
        "not a regular expression",
    ),
    "condition without a test": (
        "match.conditions",
        [{"attribute": "Modality", "because": "x"}],
        "give at least one of pattern, excludes, min, max",
    ),
    "condition that nothing meets": (
        "match.conditions",
        [{"attribute": "EchoTime", "min": 20, "max": 10, "because": "x"}],
        "no number is at least 20 and at most 10",
    ),
    "condition without a reason": (
        "match.conditions",
        [{"attribute": "Modality", "pattern": ".", "because": ""}],
        "because: String should have at least 1 character",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_rule(tmp_path: Path, case: str) -> None:
    place, value, expected = BROKEN[case]
    with pytest.raises(ModelPackageError) as caught:
        read(tmp_path, changed(place, value))
    assert expected in str(caught.value)
    assert "engines/README.md describes each field" in str(caught.value)


def test_radiographs_have_no_parts_by_value(tmp_path: Path) -> None:
    content = yaml.safe_load((ENGINES / "cxr-lung" / "1.0.0" / "manifest.yaml").read_text())
    content["readout"]["structures"].append({**PART, "derived": {"within": "Right lung", "min": 0, "max": 1}})
    with pytest.raises(ModelPackageError, match="Blood: only structures of volumes can be derived"):
        read(tmp_path, content)


def test_all_broken_rules_are_named_at_once(tmp_path: Path) -> None:
    content = changed("version", "one")
    content["name"] = "Brain"
    with pytest.raises(ModelPackageError, match=r"breaks 2 rule\(s\): found name: .*; version: "):
        read(tmp_path, content)


@pytest.mark.parametrize("text", ["", "- a", "name", "7"])
def test_what_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.yaml").write_text(text)
    with pytest.raises(ModelPackageError, match="breaks 1 rule"):
        read_manifest(tmp_path / "manifest.yaml")


def test_a_key_twice_is_named_with_its_line(tmp_path: Path) -> None:
    """YAML would let the last one win: a second list of conditions would replace the first."""
    path = tmp_path / "manifest.yaml"
    path.write_text(yaml.safe_dump(SOUND) + "scope: instance\n")
    line = len(path.read_text().splitlines())
    with pytest.raises(ModelPackageError, match=rf"found the key 'scope' twice in .* line {line}, column 1"):
        read_manifest(path)


def test_aliases_and_merges_are_fine(tmp_path: Path) -> None:
    """A code that is used often is written once."""
    path = tmp_path / "manifest.yaml"
    text = yaml.safe_dump(SOUND)
    assert "*id001" in text
    path.write_text(text.replace("algorithm:\n", "algorithm:\n  <<: {name: another}\n"))
    assert read_manifest(path) == read(tmp_path, SOUND)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelPackageError, match="cannot read"):
        read_manifest(tmp_path / "manifest.yaml")
    (tmp_path / "manifest.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelPackageError, match="is not YAML"):
        read_manifest(tmp_path / "manifest.yaml")
    for text in ("name: [", "version: 2024-13-45", "match: " + "[" * 5000):
        (tmp_path / "manifest.yaml").write_text(text)
        with pytest.raises(ModelPackageError, match="is not YAML"):
            read_manifest(tmp_path / "manifest.yaml")
