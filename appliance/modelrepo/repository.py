"""The folder of model packages, ``engines/<model>/<version>/manifest.yaml``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ConfigurationError, ModelPackageError
from appliance.manifest.reader import read_manifest
from appliance.modelrepo.package import ModelPackage

_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True, slots=True)
class BrokenPackage:
    """A package that cannot be used; the others are not disturbed by it."""

    name: str
    version: str
    error: ModelPackageError


class ModelRepository:
    """Reads all packages once.

    Attributes
    ----------
    packages
        The sound ones, by name and then from old to new.
    broken
        The others, with what is wrong.

    Raises
    ------
    ConfigurationError
        There is no such folder.
    """

    def __init__(self, folder: Path, weights_folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigurationError(f"there is no folder of model packages {folder}", mend="Correct models.folder")
        self.packages: list[ModelPackage] = []
        self.broken: list[BrokenPackage] = []
        # By folder, not by manifest: a package whose copying was cut short is named, not passed over.
        for package in sorted(folder.glob("*/*/")):
            path, name, version = package / "manifest.yaml", package.parent.name, package.name
            if not path.exists() and _VERSION.fullmatch(version) is None:
                continue
            try:
                manifest = read_manifest(path)
                if (manifest.name, manifest.version) != (name, version):
                    raise ModelPackageError(
                        f"{path} does not belong where it lies",
                        found=manifest.key,
                        expected=f"{name}/{version}, as its folders are called",
                        mend="Rename the folders, or correct name and version",
                    )
            except ModelPackageError as error:
                self.broken.append(BrokenPackage(name, version, error))
            else:
                self.packages.append(ModelPackage(manifest, package, weights_folder))
        self.packages.sort(key=lambda sound: (sound.manifest.name, _number(sound.manifest.version)))

    def find(self, wanted: str) -> ModelPackage:
        """Return a package by ``name`` (its newest sound version) or ``name/version``.

        Raises
        ------
        ConfigurationError
            There is none, or it is broken.
        """
        name, _, version = wanted.partition("/")
        found = [p for p in self.packages if p.manifest.name == name and version in ("", p.manifest.version)]
        if found:
            return found[-1]
        for broken in self.broken:
            if broken.name == name and version in ("", broken.version):
                raise ConfigurationError(f"the model package {wanted} is broken", found=str(broken.error))
        known = sorted({package.manifest.name for package in self.packages})
        raise ConfigurationError(
            f"there is no model package {wanted!r}",
            expected=f"one of {', '.join(known) or 'none: the folder is empty'}",
            mend="See: appliance models list",
        )

    def select(self, names: Sequence[str], *, everything: bool) -> list[ModelPackage]:
        """Return the packages that a command names, or the newest sound version of every model.

        Raises
        ------
        ConfigurationError
            Both or neither are asked for, or one that is named is not there, or broken.
        """
        if bool(names) == everything:
            raise ConfigurationError("which models?", mend="Name them, or give --all")
        return self.active(None) if everything else [self.find(name) for name in names]

    def active(self, wanted: Sequence[str] | None) -> list[ModelPackage]:
        """Return the packages that the settings name; the newest sound version of each model when they name none.

        Raises
        ------
        ConfigurationError
            One that is named is not there, or broken.
        """
        if wanted is not None:
            return [self.find(entry) for entry in wanted]
        newest = {package.manifest.name: package for package in self.packages}
        return list(newest.values())


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
