"""Which model packages this appliance uses, at which version, and whether they can run.

The settings come first: they may name the models there are, and pin a version of one. What they leave open the journal
says (``models activate``); of a model that it has never seen the newest sound version is adopted. A newer version that
appears in the folder afterwards does not serve until somebody activates it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.errors import ConfigurationError, ModelPackageError
from appliance.journal.hints import send_hint
from appliance.journal.journal import Journal
from appliance.journal.records import Activation, ModelVersion
from appliance.manifest.manifest import Manifest, Precision
from appliance.modelrepo.package import ModelPackage
from appliance.modelrepo.repository import BrokenPackage, ModelRepository

_PACKAGED = Path(__file__).resolve().parents[2] / "engines"
"""The packages beside the code, as a checkout has them."""


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """A package that is used, the precision that it runs at, and whether it only runs in the shadow of another."""

    package: ModelPackage
    precision: Precision
    shadow: bool

    @property
    def manifest(self) -> Manifest:
        """Of the package."""
        return self.package.manifest


@dataclass(frozen=True, slots=True)
class ActiveModels:
    """The models that are used: those that can run, and why the others cannot.

    Attributes
    ----------
    generation
        Of the journal's activations when they were read.
    models
        Those whose package is sound, shadows included.
    unusable
        ``name/version`` of one of them → why it cannot run.
    lost
        ``name/version`` that the journal names but whose package is gone or broken → what was found.
    broken
        Packages whose manifest cannot be used: somebody has to be told.
    """

    generation: int
    models: Sequence[ActiveModel]
    unusable: Mapping[str, str]
    lost: Mapping[str, str]
    broken: Sequence[BrokenPackage]

    def manifests(self, *, shadow: bool) -> list[Manifest]:
        """Of the models that serve, or of the shadows."""
        return [model.manifest for model in self.models if model.shadow == shadow]

    @property
    def usable(self) -> list[ActiveModel]:
        """Those that can run."""
        return [model for model in self.models if model.manifest.key not in self.unusable]

    def complaints(self) -> Iterator[str]:
        """One line for each thing that somebody has to see to."""
        for key, reason in self.unusable.items():
            yield f"model {key} cannot run: {reason}"
        for key, reason in self.lost.items():
            yield f"model {key} does not serve: {reason}. Put it back, or: appliance models activate another version"
        for broken in self.broken:
            yield f"model package {broken.name}/{broken.version} is left out: {broken.error}"


def engines_folder(settings: Settings) -> Path:
    """The folder of packages."""
    return settings.models.folder or _PACKAGED


def repository(settings: Settings, layout: StateLayout) -> ModelRepository:
    """Read the folder of packages."""
    return ModelRepository(engines_folder(settings), layout.weights)


def default_version(package: ModelPackage) -> ModelVersion:
    """The version of a package, at the precision that its manifest names."""
    return ModelVersion(package.manifest.version, package.manifest.runtime.precision)


def pinned(settings: Settings, found: ModelRepository) -> dict[str, ModelPackage]:
    """The packages that the settings name with their version, by model: no command changes what they say.

    Raises
    ------
    ConfigurationError
        One is not there, or broken.
    """
    return {
        package.manifest.name: package
        for package in (found.find(entry) for entry in settings.models.active or () if "/" in entry)
    }


def active_models(settings: Settings, layout: StateLayout, journal: Journal) -> ActiveModels:
    """Return the models that are used now; the journal learns of pins, and of models that it sees for the first time.

    Raises
    ------
    ConfigurationError
        The settings name a model that is not there.
    """
    found = repository(settings, layout)
    recorded = journal.activations.all()
    for name, package in pinned(settings, found).items():
        journal.activations.pin(name, default_version(package), time.time())
    for package in _candidates(settings, found):
        if package.manifest.name not in recorded:
            journal.activations.adopt(package.manifest.name, default_version(package), time.time())
    generation = journal.activations.generation()  # before the rows: a change in between is seen again, not missed
    return _resolved(settings, found, journal.activations.all(), generation)


def models_at_rest(settings: Settings, layout: StateLayout) -> ActiveModels:
    """Return the models that would be used if a role started now; nothing is written, and no journal is needed.

    Raises
    ------
    ConfigurationError
        The settings name a model that is not there.
    """
    found = repository(settings, layout)
    activations: dict[str, Activation] = {}
    if layout.journal.is_file():
        journal = Journal(layout.journal)
        activations = journal.activations.all()
        journal.close()
    for package in _candidates(settings, found):
        name = package.manifest.name
        activations.setdefault(name, Activation(name, active=default_version(package)))
    for name, package in pinned(settings, found).items():
        before = activations[name]
        if before.active is None or before.active.version != package.manifest.version:
            activations[name] = Activation(name, active=default_version(package), shadow=before.shadow)
    return _resolved(settings, found, activations, 0)


def tell_roles(layout: StateLayout) -> None:
    """Wake the roles, so that they notice a change of what serves at once instead of at their next look."""
    for role in ("receiver", "worker"):
        send_hint(layout.run, role)


def weights_arrived(layout: StateLayout, model: str) -> None:
    """Have the roles that run take up a model whose weights were missing when they looked."""
    if not layout.journal.is_file():
        return
    journal = Journal(layout.journal)
    try:
        journal.activations.look_again(model, "weights fetched", time.time())
    finally:
        journal.close()
    tell_roles(layout)


def _candidates(settings: Settings, found: ModelRepository) -> list[ModelPackage]:
    """What serves where the journal does not say otherwise: what is named, else all that need no activation."""
    if settings.models.active is not None:
        return found.active(settings.models.active)
    # A newer version that must be activated, or is not ready, does not hide the one before it.
    serving = [package for package in found.packages if package.manifest.activation == "automatic"]
    return list({package.manifest.name: package for package in serving if not package.manifest.open_points}.values())


def _resolved(
    settings: Settings, found: ModelRepository, activations: Mapping[str, Activation], generation: int
) -> ActiveModels:
    wanted = settings.models.names
    models, unusable, lost = [], {}, {}
    for name, activation in activations.items():
        if wanted is not None and name not in wanted:
            continue
        for version, shadow in ((activation.active, False), (activation.shadow, True)):
            if version is None:
                continue
            try:
                package = found.find(f"{name}/{version.version}")
            except ConfigurationError as error:
                lost[f"{name}/{version.version}"] = str(error)
                continue
            models.append(ActiveModel(package, version.precision, shadow))
            try:
                package.require_presence()
            except ModelPackageError as error:
                unusable[package.manifest.key] = str(error)
    return ActiveModels(generation, models, unusable, lost, found.broken)
