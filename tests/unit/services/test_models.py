"""Which packages are active, which of them can run, and which are left out: each with its reason."""

from __future__ import annotations

from pathlib import Path

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.services.models import active_models
from tests.conftest import REPOSITORY


def engines(folder: Path) -> Path:
    """The project's packages, of which one lacks its network, and one that was copied by half."""
    for package in (REPOSITORY / "engines").glob("*/*/"):
        copy = folder / package.relative_to(REPOSITORY / "engines")
        copy.mkdir(parents=True)
        (copy / "manifest.yaml").write_bytes((package / "manifest.yaml").read_bytes())
    (folder / "half-copied" / "2.0.0").mkdir(parents=True)
    return folder


def test_all_three_kinds(tmp_path: Path) -> None:
    """Weights not fetched, a network missing from its package, and no manifest: none stops the others."""
    settings = Settings.model_validate({"models": {"folder": str(engines(tmp_path / "engines"))}})
    found = active_models(settings, StateLayout(tmp_path / "state"))
    assert {manifest.name for manifest in found.manifests} == {"cxr-lung", "mr-brain-extract"}
    assert "appliance models fetch mr-brain-extract" in found.unusable["mr-brain-extract"]
    assert "model.onnx" in found.unusable["cxr-lung"]
    assert list(found.usable) == []
    (broken,) = found.broken
    assert (broken.name, broken.version) == ("half-copied", "2.0.0")


def test_the_settings_choose(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"models": {"folder": str(engines(tmp_path / "engines")), "active": ["cxr-lung/1.0.0"]}}
    )
    found = active_models(settings, StateLayout(tmp_path / "state"))
    assert [manifest.key for manifest in found.manifests] == ["cxr-lung/1.0.0"]
