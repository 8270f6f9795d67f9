"""A whole reception in one object, in the test's own process: store, assembler, node and drop folder."""

from __future__ import annotations

import stat
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from appliance.config.layout import StateLayout
from appliance.config.settings import Commitment, Destination, DicomNode
from appliance.config.settings import DropFolder as DropFolderSettings
from appliance.domain.states import Scope
from appliance.intake.assembler import Assembler
from appliance.intake.assessor import Assessor
from appliance.intake.commitment_scp import CommitmentScp
from appliance.intake.dropfolder import DropFolder
from appliance.intake.forwarding import Forwarding
from appliance.intake.mpps_scp import MppsScp
from appliance.intake.shelf import RejectedShelf
from appliance.intake.storage_scp import StorageScp
from appliance.intake.store import InstanceStore
from appliance.journal.journal import Journal
from appliance.manifest.manifest import Manifest
from appliance.manifest.matching import Match
from appliance.observability.metrics import Metrics
from appliance.spool.incoming import Incoming
from appliance.spool.spool import Spool

_COMMITMENT = Commitment()


def model(
    name: str = "ct-model",
    *,
    scope: Scope = Scope.SERIES,
    modality: str = "CT",
    sop_class: str = "",
    min_images: int = 1,
) -> Manifest:
    """A manifest of which only name, scope and match matter; the rest is left out unchecked."""
    match = Match(modality=[modality], sop_class_uid=[sop_class or "1.2.840.10008.5.1.4.1.1.2"], min_images=min_images)
    return Manifest.model_construct(name=name, version="1.0.0", scope=scope, match=match)


class Reception:
    """Everything that takes images in, below one folder; ``start`` what the test needs and ``stop`` all of it."""

    def __init__(
        self,
        root: Path,
        *,
        models: Sequence[Manifest] = (),
        unusable: Mapping[str, str] | None = None,
        min_free_bytes: int = 0,
        max_instance_bytes: int = 64 * 1024 * 1024,
        stable_age_s: float = 30.0,
        settle_s: float = 0.1,
        count_announced: bool = True,
        destinations: Sequence[Destination] = (),
        send_on: bool = False,
        commitment: Commitment = _COMMITMENT,
    ) -> None:
        self.layout = StateLayout(root)
        self.journal = Journal(self.layout.journal)
        self.spool = Spool(self.layout.spool, min_free_bytes=min_free_bytes)
        self.metrics = Metrics()
        self.assessor = Assessor(models, unusable or {}, self.metrics)
        self.fatal = threading.Event()
        self.settle_s = settle_s
        self.store = InstanceStore(
            self.journal,
            self.spool,
            self.assessor,
            self.metrics,
            Forwarding(destinations, self.layout.run),
            stable_age_s=stable_age_s,
            settle_s=settle_s,
            count_announced=count_announced,
            max_instance_bytes=max_instance_bytes,
            run_folder=self.layout.run,
        )
        self.assembler = Assembler(
            self.journal, self.assessor, self.metrics, run_folder=self.layout.run, on_fatal=self.fatal.set
        )
        self.mpps = MppsScp(
            self.journal, self.metrics, stable_age_s=stable_age_s, send_on=send_on, run_folder=self.layout.run
        )
        self.commitment = CommitmentScp(
            commitment,
            journal=self.journal,
            spool=self.spool,
            assembler=self.assembler,
            metrics=self.metrics,
            run_folder=self.layout.run,
            on_fatal=self.fatal.set,
        )
        self.node: StorageScp | None = None
        self.dropfolder: DropFolder | None = None

    def start_node(self, **settings: Any) -> int:
        """Start the DICOM node on a free port of the loopback; return the port."""
        node = DicomNode.model_construct(**{**DicomNode().model_dump(), "host": "127.0.0.1", "port": 0, **settings})
        self.node = StorageScp(
            node,
            self.store,
            self.assembler,
            self.metrics,
            settle_s=self.settle_s,
            sop_class_uids=self.assessor.sop_class_uids,
            services=[self.mpps, self.commitment],
            on_fatal=self.fatal.set,
        )
        self.node.start()
        return self.node.port

    def start_dropfolder(self, *, quiet_s: float = 0.2, poll_s: float = 0.1, **settings: Any) -> Path:
        """Watch the drop folder; return its path."""
        folder = self.layout.dropfolder
        self.dropfolder = DropFolder(
            DropFolderSettings(quiet_s=quiet_s, poll_s=poll_s, **settings),
            folder,
            self.store,
            RejectedShelf(self.spool, self.journal),
            self.assembler,
            on_fatal=self.fatal.set,
        )
        self.dropfolder.start()
        return folder

    def stop(self) -> None:
        """Stop all that was started."""
        if self.node is not None:
            self.node.stop()
        if self.dropfolder is not None:
            self.dropfolder.stop()
        self.commitment.stop()
        self.assembler.stop()
        self.journal.close()

    def count(self, outcome: str, source: str = "dicom") -> int:
        """How many instances had this outcome, by the metrics."""
        return int(self.metrics.instances.labels(source, outcome)._value.get())

    def rows(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Rows of the journal."""
        connection = self.journal.instances._database.connection()
        return [tuple(row) for row in connection.execute(query, arguments)]

    def file(self, content: bytes, source: str = "dicom") -> Incoming:
        """A file that has been received with this content."""
        incoming = self.spool.incoming.new(source)
        incoming.write(content)
        return incoming

    def incoming(self) -> list[Path]:
        """What lies half-received in ``incoming``; empty files are made ahead, and whole ones are promised."""
        return [path for path in self._of_incoming() if path.stat().st_size and path.stat().st_mode & stat.S_IWUSR]

    def promised(self) -> list[Path]:
        """Files of ``incoming`` that are promised, and that the journal may not have on the disk yet."""
        return [path for path in self._of_incoming() if not path.stat().st_mode & stat.S_IWUSR]

    def _of_incoming(self) -> list[Path]:
        return sorted(self.spool.incoming.folder.iterdir())
