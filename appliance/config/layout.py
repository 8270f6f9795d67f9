"""Where things lie in the state folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Paths inside the state folder; everything is on one filesystem, because files move by rename."""

    root: Path

    @property
    def journal(self) -> Path:
        """The SQLite file."""
        return self.root / "journal" / "journal.sqlite3"

    @property
    def spool(self) -> Path:
        """Files in transit and at rest."""
        return self.root / "spool"

    @property
    def dropfolder(self) -> Path:
        """The default drop folder."""
        return self.root / "dropfolder"

    @property
    def weights(self) -> Path:
        """Fetched and converted weights: ``<model>/<version>/<file>``."""
        return self.root / "weights"

    @property
    def cache(self) -> Path:
        """What can be made again: compiled models."""
        return self.root / "cache"

    @property
    def engines(self) -> Path:
        """Built TensorRT engines."""
        return self.cache / "engines"

    @property
    def verified(self) -> Path:
        """What came of the golden cases on this machine: one file for each model, backend and precision."""
        return self.cache / "verified"

    @property
    def run(self) -> Path:
        """Wake-up sockets and the metrics of the roles."""
        return self.root / "run"

    @property
    def metrics(self) -> Path:
        """One file per role and kind of metric, shared through memory maps."""
        return self.run / "metrics"

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders, parents first."""
        return (
            self.root,
            self.journal.parent,
            self.spool,
            self.dropfolder,
            self.weights,
            self.cache,
            self.run,
            self.metrics,
        )
