"""Which packages are used at which version, which of them can run, and which are left out: each with its reason."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.errors import ConfigurationError
from appliance.journal.journal import Journal
from appliance.journal.records import ModelVersion
from appliance.services.models import ActiveModels, active_models, models_at_rest
from tests.conftest import REPOSITORY
from tests.unit.modelrepo.packages import write_package


class Site:
    """A folder of packages, a journal, and the models that follow from both."""

    def __init__(self, root: Path) -> None:
        self.engines = root / "engines"
        self.engines.mkdir()
        self.layout = StateLayout(root / "state")
        self.journal = Journal(self.layout.journal)

    def settings(self, *active: str) -> Settings:
        return Settings.model_validate({"models": {"folder": str(self.engines), "active": list(active) or None}})

    def models(self, *active: str) -> ActiveModels:
        at_rest = models_at_rest(self.settings(*active), self.layout)
        found = active_models(self.settings(*active), self.layout, self.journal)
        assert [(one.manifest.key, one.precision, one.shadow) for one in at_rest.models] == [
            (one.manifest.key, one.precision, one.shadow) for one in found.models
        ]
        return found

    def keys(self, *active: str) -> list[str]:
        return [f"{one.manifest.key}{' shadow' * one.shadow}" for one in self.models(*active).models]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.journal.close()


def half_of_the_projects_packages(folder: Path) -> None:
    """The project's packages, of which one lacks its network, and one that was copied by half."""
    for name in ("cxr-lung", "mr-brain-extract"):
        package = REPOSITORY / "engines" / name / "1.0.0"
        copy = folder / name / "1.0.0"
        copy.mkdir(parents=True)
        (copy / "manifest.yaml").write_bytes((package / "manifest.yaml").read_bytes())
    (folder / "half-copied" / "2.0.0").mkdir(parents=True)


def test_all_three_kinds(site: Site) -> None:
    """Weights not fetched, a network missing from its package, and no manifest: none stops the others."""
    half_of_the_projects_packages(site.engines)
    found = site.models()
    assert {manifest.name for manifest in found.manifests(shadow=False)} == {"cxr-lung", "mr-brain-extract"}
    assert "appliance models fetch mr-brain-extract" in found.unusable["mr-brain-extract/1.0.0"]
    assert "model.onnx" in found.unusable["cxr-lung/1.0.0"]
    assert found.usable == []
    (broken,) = found.broken
    assert (broken.name, broken.version) == ("half-copied", "2.0.0")
    assert [complaint.partition(": ")[0] for complaint in found.complaints()] == [
        "model cxr-lung/1.0.0 cannot run", "model mr-brain-extract/1.0.0 cannot run",
        "model package half-copied/2.0.0 is left out",
    ]  # fmt: skip


def test_a_newer_version_that_may_not_serve_yet_does_not_hide_the_one_before(site: Site) -> None:
    write_package(site.engines, version="1.0.0")
    for version, line in (("1.1.0", "activation: manual"), ("1.2.0", "open_points: [steps]")):
        manifest = write_package(site.engines, version=version) / "manifest.yaml"
        manifest.write_text(f"{manifest.read_text()}{line}\n")
    assert site.keys() == ["brain/1.0.0"]
    assert site.models().unusable == {}
    assert (
        "brain/1.2.0 is not ready: found 1 open point(s): steps" in site.models("brain/1.2.0").unusable["brain/1.2.0"]
    )


def test_the_newest_version_is_adopted_and_a_newer_one_waits_to_be_activated(site: Site) -> None:
    write_package(site.engines, version="1.0.0")
    write_package(site.engines, version="1.1.0")
    assert site.keys() == ["brain/1.1.0"]
    write_package(site.engines, version="1.2.0")
    write_package(site.engines, name="lung")
    assert site.keys() == ["brain/1.1.0", "lung/1.0.0"]
    site.journal.activations.activate("brain", ModelVersion("1.2.0", "bfloat16"), 1)
    assert site.keys() == ["brain/1.2.0", "lung/1.0.0"]
    assert site.models().models[0].precision == "bfloat16"


def test_a_manual_model_runs_once_it_is_activated_or_named(site: Site) -> None:
    write_package(site.engines, activation="manual")
    assert site.keys() == []
    assert site.keys("brain") == ["brain/1.0.0"]
    site.journal.activations.deactivate("brain", 1)
    assert site.keys("brain") == []
    site.journal.activations.activate("brain", ModelVersion("1.0.0", "float32"), 2)
    assert site.keys() == ["brain/1.0.0"]


def test_the_settings_choose_models_and_pin_versions(site: Site) -> None:
    write_package(site.engines, version="1.0.0")
    write_package(site.engines, version="1.1.0")
    write_package(site.engines, name="lung")
    assert site.keys() == ["brain/1.1.0", "lung/1.0.0"]
    assert site.keys("lung") == ["lung/1.0.0"]
    assert site.keys("brain/1.0.0") == ["brain/1.0.0"]
    # What was pinned goes on serving when the pin is taken away: nothing changes that nobody asked for.
    assert site.keys() == ["brain/1.0.0", "lung/1.0.0"]


def test_a_shadow_is_used_besides(site: Site) -> None:
    write_package(site.engines, version="1.0.0")
    site.models()
    write_package(site.engines, version="1.1.0")
    site.journal.activations.shadow("brain", ModelVersion("1.1.0", "float32"), 1)
    assert site.keys() == ["brain/1.0.0", "brain/1.1.0 shadow"]
    assert [manifest.key for manifest in site.models().manifests(shadow=True)] == ["brain/1.1.0"]


def test_a_version_that_has_gone_is_missed(site: Site) -> None:
    folder = write_package(site.engines, version="1.1.0")
    site.models()
    write_package(site.engines, version="1.0.0")
    shutil.rmtree(folder)
    found = site.models()
    assert found.models == []
    assert "there is no model package 'brain/1.1.0'" in found.lost["brain/1.1.0"]
    (complaint,) = found.complaints()
    assert "Put it back, or: appliance models activate another version" in complaint


def test_reading_again_changes_nothing(site: Site) -> None:
    write_package(site.engines)
    generation = site.models("brain/1.0.0").generation
    assert generation == site.models("brain/1.0.0").generation == site.models().generation


def test_a_model_that_is_named_but_not_there(site: Site) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no model package .brain/1\.0\.0"):
        active_models(site.settings("brain/1.0.0"), site.layout, site.journal)
