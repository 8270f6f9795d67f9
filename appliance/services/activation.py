"""Changing which version of a model serves: only one that has shown on this machine that it can.

Heavy, as the model is opened: only commands import it. The journal is changed last and at once; whatever ends the
process before has changed nothing.
"""

from __future__ import annotations

import time

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.errors import ConfigurationError, VerificationFailed
from appliance.journal.journal import Journal
from appliance.journal.records import Activation, ModelVersion
from appliance.manifest.manifest import Precision
from appliance.modelrepo.package import ModelPackage
from appliance.modelrepo.repository import ModelRepository
from appliance.pipeline.model import Model
from appliance.pipeline.verifier import Progress
from appliance.services.inference import thread_count, verifier
from appliance.services.models import default_version, pinned, repository, tell_roles


class ModelChanges:
    """What an operator may change; the roles notice by themselves, within moments.

    Parameters
    ----------
    progress
        Told what is being done.
    """

    def __init__(self, settings: Settings, layout: StateLayout, journal: Journal, progress: Progress) -> None:
        self._settings = settings
        self._layout = layout
        self._journal = journal
        self._progress = progress

    def activate(self, wanted: str, precision: Precision | None) -> ModelVersion:
        """Let a package serve, named by ``name`` (its newest version) or ``name/version``; return its version.

        Raises
        ------
        ConfigurationError
            There is no such package, or the settings say otherwise.
        ModelPackageError, BackendUnavailable, InferenceFailed
            It cannot run here, or (``VerificationFailed``) does not pass its golden cases, which is an alarm then.
            What served goes on.
        """
        found = repository(self._settings, self._layout)
        package = found.find(wanted)
        self._require_free(package.manifest.name, found)
        try:
            version = self._verified(package, precision)
        except VerificationFailed as error:
            self._journal.activations.refuse(
                package.manifest.name, _version(package, precision), str(error), time.time()
            )
            raise
        name, now = package.manifest.name, time.time()
        if not self._journal.activations.activate(name, version, now):
            # It may be that its files were mended: a role that could not use them has to look again.
            self._journal.activations.look_again(name, "activated again", now)
        tell_roles(self._layout)
        return version

    def shadow(self, wanted: str, precision: Precision | None) -> ModelVersion:
        """Let a package run in the shadow of the version that serves; raises as ``activate``."""
        package = repository(self._settings, self._layout).find(wanted)
        name = package.manifest.name
        self._require_named(name)
        version = _version(package, precision)
        active = self._activation(name).active
        if active is None or active == version:
            raise ConfigurationError(
                f"{package.manifest.key} cannot be a shadow",
                found="no version of it serves" if active is None else "that it serves itself, at this precision",
                mend="A shadow runs beside another version, or another precision, that serves",
            )
        version = self._verified(package, precision)
        self._journal.activations.shadow(name, version, time.time())
        tell_roles(self._layout)
        return version

    def roll_back(self, name: str) -> ModelVersion:
        """Let the version serve that did so before; return it.

        It is not verified here, as haste may be needed: the worker does not let it serve unless it is.

        Raises
        ------
        ConfigurationError
            Its package is gone, or the settings say otherwise.
        ModelPackageError
            Its weights are not here.
        JournalError
            No version served before.
        """
        found = repository(self._settings, self._layout)
        self._require_free(name, found)
        previous = self._activation(name).previous
        if previous is not None:
            found.find(f"{name}/{previous.version}").require_weights()
        version = self._journal.activations.roll_back(name, time.time())
        tell_roles(self._layout)
        return version

    def deactivate(self, name: str) -> bool:
        """Let no version of a model serve; ``False`` when none did. Raises ``ConfigurationError`` as ``activate``."""
        self._require_free(name, repository(self._settings, self._layout))
        self._activation(name)
        changed = self._journal.activations.deactivate(name, time.time())
        tell_roles(self._layout)
        return changed

    def end_shadow(self, name: str) -> bool:
        """Let no version run in the shadow of a model; ``False`` when none did."""
        self._activation(name)
        changed = self._journal.activations.shadow(name, None, time.time())
        tell_roles(self._layout)
        return changed

    def _verified(self, package: ModelPackage, precision: Precision | None) -> ModelVersion:
        """Open a package as the worker would; its golden cases run now unless it has passed them here before."""
        version = _version(package, precision)
        model = Model(
            package,
            threads=thread_count(self._settings),
            cache=self._layout.cache,
            precision=version.precision,
        )
        try:
            backend = model.open(verifier(self._settings, self._layout, progress=self._progress).require)
            done = "not verified" if model.verification is None else model.verification.summary()
            self._progress(f"{package.manifest.key} runs on {backend} in {version.precision}: {done}")
        finally:
            model.close()
        return version

    def _activation(self, name: str) -> Activation:
        try:
            return self._journal.activations.all()[name]
        except KeyError as error:
            raise ConfigurationError(
                f"no version of a model {name!r} was ever active here", mend="See: appliance models list"
            ) from error

    def _require_named(self, name: str) -> None:
        names = self._settings.models.names
        if names is not None and name not in names:
            raise ConfigurationError(
                f"{name} is not among the models that the settings name", mend="Name it in models.active, then restart"
            )

    def _require_free(self, name: str, found: ModelRepository) -> None:
        self._require_named(name)
        package = pinned(self._settings, found).get(name)
        if package is not None:
            raise ConfigurationError(
                f"the settings pin {package.manifest.key}",
                mend=f"Name {name} without its version in models.active, then restart",
            )


def _version(package: ModelPackage, precision: Precision | None) -> ModelVersion:
    default = default_version(package)
    return ModelVersion(default.version, precision or default.precision)
