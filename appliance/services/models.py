"""Which model packages this configuration uses, and whether they can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.errors import ModelPackageError
from appliance.manifest.manifest import Manifest
from appliance.modelrepo.package import ModelPackage
from appliance.modelrepo.repository import BrokenPackage, ModelRepository

_PACKAGED = Path(__file__).resolve().parents[2] / "engines"
"""The packages beside the code, as a checkout has them."""


@dataclass(frozen=True, slots=True)
class ActiveModels:
    """The active models: those that can run, and why the others cannot.

    Attributes
    ----------
    unusable
        Name of an active model → why it cannot run.
    broken
        Packages whose manifest cannot be used: they are not active, and someone has to be told.
    """

    packages: Sequence[ModelPackage]
    unusable: Mapping[str, str]
    broken: Sequence[BrokenPackage]

    @property
    def manifests(self) -> list[Manifest]:
        """Of all active models."""
        return [package.manifest for package in self.packages]

    @property
    def usable(self) -> list[ModelPackage]:
        """Those that can run."""
        return [package for package in self.packages if package.manifest.name not in self.unusable]


def repository(settings: Settings, layout: StateLayout) -> ModelRepository:
    """Read the folder of packages."""
    return ModelRepository(settings.models.folder or _PACKAGED, layout.weights)


def active_models(settings: Settings, layout: StateLayout) -> ActiveModels:
    """Return the models that the settings make active.

    Raises
    ------
    ConfigurationError
        The settings name one that is not there.
    """
    found = repository(settings, layout)
    packages = found.active(settings.models.active)
    unusable = {}
    for package in packages:
        try:
            package.require_presence()
        except ModelPackageError as error:
            unusable[package.manifest.name] = str(error)
    return ActiveModels(packages, unusable, found.broken)
