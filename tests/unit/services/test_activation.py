"""Changing which version serves: only what passed its golden cases here, only where the settings leave it open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.errors import ConfigurationError, JournalError, ModelPackageError, VerificationFailed
from appliance.journal.hints import HintSocket
from appliance.journal.journal import Journal
from appliance.journal.records import Activation, ModelVersion
from appliance.services.activation import ModelChanges
from appliance.services.models import active_models
from tests.support.model_packages import area_of, write_bright_package

V1, V2 = ModelVersion("1.0.0", "float32"), ModelVersion("1.1.0", "float32")


class Site:
    """Two versions of a model, of which the older one serves."""

    def __init__(self, root: Path) -> None:
        self.engines, self.layout = root / "engines", StateLayout(root / "state")
        self.journal = Journal(self.layout.journal)
        self.said: list[str] = []
        write_bright_package(self.engines, "1.0.0", 0.5)
        active_models(self.settings(), self.layout, self.journal)
        self.newer = write_bright_package(self.engines, "1.1.0", 0.6)

    def settings(self, *active: str) -> Settings:
        return Settings.model_validate(
            {"models": {"folder": str(self.engines), "active": list(active) or None}, "worker": {"threads": 1}}
        )

    def changes(self, *active: str) -> ModelChanges:
        return ModelChanges(self.settings(*active), self.layout, self.journal, self.said.append)

    def activation(self, name: str = "bright") -> Activation:
        return self.journal.activations.all()[name]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.journal.close()


def test_activated_after_its_golden_cases_and_rolled_back(site: Site) -> None:
    assert site.changes().activate("bright", None) == V2
    assert site.activation() == Activation("bright", active=V2, previous=V1)
    assert site.said == [
        "bright/1.1.0: cone, by onnxruntime in float32",
        "bright/1.1.0 runs on onnxruntime in float32: "
        "passed: 1 golden case(s), Dice at least 1.0000, sizes within 0.00%",
    ]
    assert site.changes().roll_back("bright") == V1
    assert site.activation() == Activation("bright", active=V1, previous=V2)


def test_what_passed_here_before_is_not_verified_again(site: Site) -> None:
    site.changes().activate("bright", None)
    site.said.clear()
    site.changes().activate("bright/1.1.0", None)
    assert not [line for line in site.said if "cone, by" in line]
    # Nothing changes by it but that the roles look again at what lies in the folders.
    assert [event.event for event in site.journal.activations.history("bright", 2)] == ["activated again", "activated"]


def test_one_that_fails_its_golden_cases_does_not_serve(site: Site) -> None:
    write_bright_package(site.engines, "1.2.0", 0.7, expected=2 * area_of(0.7))
    for change in (site.changes().activate, site.changes().shadow):
        with pytest.raises(VerificationFailed, match=r"bright/1\.2\.0 does not pass its golden cases"):
            change("bright", None)
    assert site.activation() == Activation("bright", active=V1)
    (refused,) = site.journal.activations.refused(None)
    assert (refused.model, refused.version) == ("bright", ModelVersion("1.2.0", "float32"))
    assert "area_pixels" in refused.reason
    site.changes().activate("bright/1.0.0", None)  # it serves already: the decision is what counts
    assert site.journal.activations.refused(None) == []


def test_one_whose_weights_are_damaged_does_not_serve(site: Site) -> None:
    network = site.newer / "model.onnx"
    network.write_bytes(network.read_bytes()[:-1])
    with pytest.raises(ModelPackageError, match="not the file that its manifest names"):
        site.changes().activate("bright", None)
    assert site.activation() == Activation("bright", active=V1)


def test_one_with_open_points_does_not_serve(site: Site) -> None:
    manifest = site.newer / "manifest.yaml"
    manifest.write_text(manifest.read_text() + "open_points: [what the numbers mean]\n")
    with pytest.raises(ModelPackageError, match="not ready: found 1 open point"):
        site.changes().activate("bright", None)
    assert site.activation() == Activation("bright", active=V1)


def test_a_version_that_is_not_there(site: Site) -> None:
    with pytest.raises(ConfigurationError, match="there is no model package 'bright/9"):
        site.changes().activate("bright/9.0.0", None)


def test_what_the_settings_pin_no_command_changes(site: Site) -> None:
    changes = site.changes("bright/1.0.0")
    for change in (
        lambda: changes.activate("bright", None),
        lambda: changes.roll_back("bright"),
        lambda: changes.deactivate("bright"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            change()
        assert "the settings pin bright/1.0.0. Name bright without its version in models.active" in str(caught.value)
    assert changes.shadow("bright/1.1.0", None) == V2  # beside it anything may run


def test_what_the_settings_do_not_name_is_not_activated(site: Site) -> None:
    write_bright_package(site.engines, "1.0.0", 0.5, name="other")
    with pytest.raises(ConfigurationError, match="bright is not among the models that the settings name"):
        site.changes("other").activate("bright", None)


def test_nothing_to_go_back_to(site: Site) -> None:
    with pytest.raises(JournalError, match="no earlier version of bright"):
        site.changes().roll_back("bright")


def test_back_to_a_version_whose_package_has_gone(site: Site) -> None:
    site.changes().activate("bright", None)
    (site.engines / "bright" / "1.0.0" / "manifest.yaml").unlink()
    with pytest.raises(ConfigurationError, match=r"the model package bright/1\.0\.0 is broken"):
        site.changes().roll_back("bright")
    assert site.activation().active == V2


def test_deactivated_and_active_again(site: Site) -> None:
    assert site.changes().deactivate("bright")
    assert not site.changes().deactivate("bright")
    assert site.activation() == Activation("bright", previous=V1)
    assert site.changes().roll_back("bright") == V1


def test_a_shadow_needs_something_to_be_the_shadow_of(site: Site) -> None:
    assert site.changes().shadow("bright", None) == V2
    assert site.activation() == Activation("bright", active=V1, shadow=V2)
    with pytest.raises(ConfigurationError, match="that it serves itself, at this precision"):
        site.changes().shadow("bright/1.0.0", None)
    assert site.changes().end_shadow("bright")
    assert not site.changes().end_shadow("bright")
    site.changes().deactivate("bright")
    with pytest.raises(ConfigurationError, match="no version of it serves"):
        site.changes().shadow("bright", None)


def test_a_model_that_nobody_has_seen(site: Site) -> None:
    for change in (site.changes().roll_back, site.changes().deactivate, site.changes().end_shadow):
        with pytest.raises((ConfigurationError, JournalError), match="nobody"):
            change("nobody")


def test_the_roles_are_told_at_once(site: Site) -> None:
    ears = [HintSocket(site.layout.run, role) for role in ("receiver", "worker-0")]
    site.changes().activate("bright", None)
    assert all(ear.wait(0) for ear in ears)
    for ear in ears:
        ear.close()
