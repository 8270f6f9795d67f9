"""One model package: its manifest, and whether its weights are here and the right ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ModelPackageError, WeightsUnavailable
from appliance.manifest.golden import GoldenImage, ImageInPackage
from appliance.manifest.manifest import Manifest, StageSpec
from appliance.manifest.weights import InPackage, WeightsFile

_BLOCK_BYTES = 1024 * 1024
_IMAGES = "_images"
"""Folder of the fetched golden images, beside those of the models, none of which can be called so."""


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A package whose manifest is sound.

    Attributes
    ----------
    folder
        ``engines/<model>/<version>``, read only.
    weights_folder
        Where fetched weights of all packages lie: ``<model>/<version>/<file>`` below it.
    """

    manifest: Manifest
    folder: Path
    weights_folder: Path

    def path_of(self, weights: WeightsFile) -> Path:
        """Where a weights file lies, or will lie once it is fetched."""
        if isinstance(weights.source, InPackage):
            return self.folder / weights.file
        return self.weights_folder / self.manifest.name / self.manifest.version / weights.file

    def require_weights(self) -> dict[str, Path]:
        """Check all weights by their SHA-256 and return where they are, by file name.

        Raises
        ------
        WeightsUnavailable
            One has not been fetched yet; the message names the command that mends it.
        ModelPackageError
            The manifest has open points, or one is not the file that it names, cannot be read, or is missing from the
            package itself.
        """
        self._require_weights_presence()
        return {weights.file: self.require_right(weights) for weights in self.manifest.weights}

    def require_right(self, weights: WeightsFile) -> Path:
        """Check one weights file by its SHA-256 and return where it is; raises as ``require_weights`` does."""
        path = self.path_of(weights)
        try:
            sha256 = file_sha256(path)
        except OSError as error:
            raise ModelPackageError(
                f"{weights.file} of {self.manifest.key} cannot be read", found=error.strerror, mend=self._mend(weights)
            ) from error
        if sha256 != weights.sha256:
            raise ModelPackageError(
                f"{weights.file} of {self.manifest.key} is not the file that its manifest names",
                found=f"SHA-256 {sha256}",
                expected=weights.sha256,
                mend=self._mend(weights),
            )
        return path

    def golden_path(self, image: GoldenImage) -> Path:
        """Where a golden image lies, or will lie once it is fetched."""
        if isinstance(image.source, ImageInPackage):
            return self.folder / "golden" / image.source.file
        suffix = ".dcm" if image.format == "dicom" else ".nii.gz" if image.source.member.endswith(".gz") else ".nii"
        return self.weights_folder / _IMAGES / f"{image.sha256}{suffix}"

    def require_golden(self) -> dict[str, Path]:
        """Check all golden images by their SHA-256 and return where they are, by the name of their case.

        Raises
        ------
        WeightsUnavailable
            One has not been fetched yet; the message names the command that mends it.
        ModelPackageError
            One is not the file that the manifest names, or is missing from the package itself.
        """
        paths = {}
        for case in self.manifest.golden:
            path = paths[case.name] = self.golden_path(case.image)
            own = isinstance(case.image.source, ImageInPackage)
            if not path.is_file() and not own:
                raise WeightsUnavailable(
                    f"the golden image {case.name} of {self.manifest.key} is not here, so it cannot be verified",
                    mend=f"Get it: appliance models fetch {self.manifest.key}",
                )
            found = file_sha256(path) if path.is_file() else "no file"
            if found != case.image.sha256:
                raise ModelPackageError(
                    f"the golden image {case.name} of {self.manifest.key} is not the one that the manifest names",
                    found=found,
                    expected=case.image.sha256,
                    mend="Install the package again" if own else f"Delete {path.name}, then: appliance models fetch",
                )
        return paths

    def require_presence(self) -> None:
        """Check that all weights and golden images are here, without reading them.

        Raises as ``require_weights`` and ``require_golden`` do.
        """
        self._require_weights_presence()
        for case in self.manifest.golden:
            if not self.golden_path(case.image).is_file():
                self.require_golden()

    def require_settled(self) -> None:
        """Check that the manifest has no open points, which would make every result a guess.

        Raises
        ------
        ModelPackageError
            It has some; the message names them.
        """
        if points := self.manifest.open_points:
            raise ModelPackageError(
                f"{self.manifest.key} is not ready",
                found=f"{len(points)} open point(s): {'; '.join(points)}",
                mend=f"Settle them in {self.folder / 'manifest.yaml'}, deleting each from open_points",
            )

    def _require_weights_presence(self) -> None:
        self.require_settled()
        missing = [weights for weights in self.manifest.weights if not self.path_of(weights).is_file()]
        # What a fetch cannot bring comes first: it would only be met again after the fetch.
        for weights in missing:
            if isinstance(weights.source, InPackage):
                raise ModelPackageError(
                    f"the model package {self.manifest.key} is not whole",
                    found=f"no {weights.file}",
                    mend=self._mend(weights),
                )
        if missing:
            raise WeightsUnavailable(
                f"the weights of {self.manifest.key} are not here",
                found=f"no {', '.join(weights.file for weights in missing)}",
                mend=self._mend(missing[0]),
            )

    def _mend(self, weights: WeightsFile) -> str:
        if isinstance(weights.source, InPackage):
            return f"It belongs in {self.folder}: install the package again"
        return f"Get it: appliance models fetch {self.manifest.key}"


def weights_sha256(manifest: Manifest, stage: StageSpec) -> str:
    """SHA-256 of the network that a stage runs, as the manifest names it."""
    (sha256,) = (weights.sha256 for weights in manifest.weights if weights.file == stage.weights)
    return sha256


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def require_sha256(path: Path, sha256: str, what: str) -> None:
    """Raise ``ModelPackageError`` when a file is not the one that a manifest names; ``what`` says which it is."""
    found = file_sha256(path)
    if found != sha256:
        raise ModelPackageError(
            f"{what} is not what the manifest names",
            found=f"SHA-256 {found}",
            expected=sha256,
            mend="Do not use it: it is damaged or has been replaced. Fetch it again from a source that you trust",
        )
