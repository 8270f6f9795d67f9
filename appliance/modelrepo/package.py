"""One model package: its manifest, and whether its weights are here and the right ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ModelPackageError, WeightsUnavailable
from appliance.manifest.manifest import Manifest
from appliance.manifest.weights import InPackage, WeightsFile

_BLOCK_BYTES = 1024 * 1024


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
            One is not here; the message names the command that mends it.
        ModelPackageError
            One is not the file that the manifest names.
        """
        self.require_presence()
        found = {}
        for weights in self.manifest.weights:
            path = self.path_of(weights)
            sha256 = file_sha256(path)
            if sha256 != weights.sha256:
                raise ModelPackageError(
                    f"{weights.file} of {self.manifest.key} is not the file that its manifest names",
                    found=f"SHA-256 {sha256[:16]}…",
                    expected=f"{weights.sha256[:16]}…",
                    mend=f"Remove it, then: appliance models fetch {self.manifest.name}",
                )
            found[weights.file] = path
        return found

    def require_presence(self) -> None:
        """Check that all weights are here, without reading them; raises ``WeightsUnavailable``."""
        missing = [weights.file for weights in self.manifest.weights if not self.path_of(weights).is_file()]
        if missing:
            raise WeightsUnavailable(
                f"the weights of {self.manifest.key} are not here",
                found=f"no {', '.join(missing)}",
                mend=f"Get them: appliance models fetch {self.manifest.name}",
            )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
