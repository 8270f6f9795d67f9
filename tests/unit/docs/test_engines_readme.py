"""``engines/README.md`` describes every field of the manifest, and no other; every package is listed and has a card."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.manifest import base, golden, manifest, matching, readout, steps, weights
from tests.support.documents import models_in, table

ENGINES = Path(__file__).parents[3] / "engines"
README = (ENGINES / "README.md").read_text()

SECTIONS = {
    "Top level": manifest.Manifest,
    "`algorithm`": manifest.AlgorithmSpec,
    "A code": base.CodeSpec,
    "`match`": matching.Match,
    "`match.conditions[]`": matching.Condition,
    "`input`": manifest.InputSpec,
    "`weights[]`": weights.WeightsFile,
    "`source` of kind package": weights.InPackage,
    "`source` of kind pypi": weights.FromPypi,
    "`source` of kind web": weights.FromWeb,
    "`files[]` of kind web": weights.WebFile,
    "`stages[]`": manifest.StageSpec,
    "`stages[].profile`": manifest.ProfileSpec,
    "`stages[].box`": manifest.BoxSpec,
    "Step `orient`": steps.Orient,
    "Step `resample`": steps.Resample,
    "Step `crop_to_foreground`": steps.CropToForeground,
    "Step `crop_to_box`": steps.CropToBox,
    "Step `resize`": steps.Resize,
    "Step `scale_quantiles`": steps.ScaleQuantiles,
    "Step `scale_robust_max`": steps.ScaleRobustMax,
    "Step `scale_range`": steps.ScaleRange,
    "Step `standardize`": steps.Standardize,
    "Step `affine`": steps.Affine,
    "Step `piecewise_linear`": steps.PiecewiseLinear,
    "`readout`": readout.Readout,
    "`readout.structures[]`": readout.StructureSpec,
    "`readout.structures[].derived`": readout.DerivedSpec,
    "`measurements[]`": readout.MeasurementSpec,
    "`readout.ratios[]`": readout.RatioSpec,
    "`runtime`": manifest.RuntimeSpec,
    "`golden[]`": golden.GoldenCase,
    "`golden[].image`": golden.GoldenImage,
    "`golden[].image.source` of kind pypi": golden.ImageFromPypi,
    "`golden[].image.source` of kind debian": golden.ImageFromDebian,
    "`golden[].image.source` of kind package": golden.ImageInPackage,
    "`golden[].expect[]`": golden.Expectation,
    "`parity`": golden.Parity,
}


@pytest.mark.parametrize("title", SECTIONS)
def test_fields(title: str) -> None:
    assert table(README, f"### {title}") == set(SECTIONS[title].model_fields)


def test_every_part_of_a_manifest_is_listed() -> None:
    assert models_in(manifest.Manifest) == set(SECTIONS.values())


@pytest.mark.parametrize("path", sorted(ENGINES.glob("*/*/manifest.yaml")), ids=lambda path: path.parent.parent.name)
def test_every_package_is_listed_and_has_a_card(path: Path) -> None:
    assert f"| `{path.parent.parent.name}` |" in README
    assert (path.parent / "MODEL_CARD.md").is_file()
