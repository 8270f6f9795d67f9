"""An outbox with result objects in it, and senders that empty it."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from appliance.config.settings import Destination, DicomDestination, FolderDestination, Retry
from appliance.delivery.clock import Clock
from appliance.delivery.outgoing import Outgoing
from appliance.delivery.recorder import Recorder
from appliance.delivery.sender import Sender
from appliance.domain.uids import derived_uid
from appliance.journal.hints import send_hint
from appliance.journal.journal import Journal
from appliance.journal.records import Assessment, ReceivedInstance, ResultRow
from appliance.observability.metrics import Metrics
from appliance.spool.spool import Spool
from tests.support.result_files import data_set_bytes, result_file

QUICK = Retry(first_s=0.05, factor=2.0, longest_s=0.2)
"""Back-off for tests: peers come back in tenths of a second."""

MODEL = "test-model"


def pacs(port: int, name: str = "pacs", *, timeout_s: float = 5.0, retry: Retry = QUICK) -> DicomDestination:
    """Settings of a peer on this machine."""
    return DicomDestination(
        kind="dicom", name=name, ae_title="PACS", host="127.0.0.1", port=port, timeout_s=timeout_s, retry=retry
    )


def folder(path: Path, name: str = "share") -> FolderDestination:
    """Settings of a folder."""
    return FolderDestination(kind="folder", name=name, path=path, retry=QUICK)


class Outbox:
    """The journal and spool below ``root``; a second one on the same ``root`` is the next life of the sender.

    ``journal`` is the journal's file where it is not the usual one.
    """

    def __init__(self, root: Path, *, journal: Path | None = None) -> None:
        self.root = root
        self._file = journal or root / "journal" / "journal.sqlite"
        self.journal = Journal(self._file)
        self.spool = Spool(root / "spool")
        self.metrics = Metrics()
        self.run_dir = root / "run"
        self.failed = threading.Event()
        self.recorder = Recorder(self.journal, self.metrics, on_fatal=self.failed.set)
        self.recorder.start()
        self._senders: list[Sender] = []

    def put(
        self,
        seed: str,
        destinations: Sequence[Destination],
        *,
        kinds: Sequence[str] = ("sr", "sc", "seg"),
        created_at: float | None = None,
    ) -> list[str]:
        """End a job with one result of each kind for each destination; return their SOP Instance UIDs."""
        folder = self.spool.results / hashlib.sha256(seed.encode()).hexdigest()[:8]
        files = [result_file(folder, kind, f"{seed}-{kind}") for kind in kinds]
        self.put_files(seed, destinations, files, created_at=created_at)
        return [file.sop_instance_uid for file in files]

    def put_image(self, seed: str, destinations: Sequence[Destination]) -> str:
        """Register a received image that is forwarded; return its SOP Instance UID. No hint is sent."""
        file = result_file(self.spool.instances / seed, "sc", seed)
        now = time.time()
        image = ReceivedInstance(
            study_instance_uid=derived_uid("forwarded", "study"),
            series_instance_uid=derived_uid("forwarded", "series"),
            sop_instance_uid=file.sop_instance_uid,
            sop_class_uid=file.sop_class_uid,
            transfer_syntax_uid=file.transfer_syntax_uid,
            frames=1,
            attributes={"Modality": "OT"},
            path=self.spool.relative(file.path),
            bytes=file.bytes,
            sha256=hashlib.sha256(data_set_bytes(file.path)).hexdigest(),
            source="dicom",
            received_at=now,
        )
        self.journal.instances.register(image, [], stable_age_s=30, forward_to=[to.name for to in destinations])
        return file.sop_instance_uid

    def put_files(
        self,
        seed: str,
        destinations: Sequence[Destination],
        files: Sequence[Outgoing],
        *,
        created_at: float | None = None,
    ) -> None:
        """End a job whose results are these files of the spool."""
        now = time.time() if created_at is None else created_at
        instance = ReceivedInstance(
            study_instance_uid=derived_uid(seed, "study"),
            series_instance_uid=derived_uid(seed, "source"),
            sop_instance_uid=derived_uid(seed, "image"),
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            frames=1,
            attributes={"Modality": "CR"},
            path=f"instances/{seed}.dcm",
            bytes=1,
            sha256="",
            source="dicom",
            received_at=now,
        )
        self.journal.instances.register(instance, [Assessment(MODEL, "1", None)], stable_age_s=30)
        job = self.journal.jobs.claim("worker-0", now, 60)
        assert job is not None
        rows = [
            ResultRow(
                kind=file.kind,
                sop_class_uid=file.sop_class_uid,
                sop_instance_uid=file.sop_instance_uid,
                series_instance_uid=derived_uid(seed, file.kind),
                transfer_syntax_uid=file.transfer_syntax_uid,
                path=self.spool.relative(file.path),
                bytes=file.bytes,
                sha256=file.sha256,
            )
            for file in files
        ]
        self.journal.jobs.succeed(
            job,
            "worker-0",
            time.time() if created_at is None else created_at,
            result_json="{}",
            results=rows,
            destinations={destination.name: [file.kind for file in files] for destination in destinations},
            stages={},
        )
        send_hint(self.run_dir, "sender")

    def sender(self, destination: Destination, *, clock: Clock | None = None) -> Sender:
        """Start a sender, with the machine's clock if no other is given; ``close`` stops it."""
        sender = Sender(
            destination,
            ae_title="APPLIANCE",
            journal=self.journal,
            spool=self.spool,
            recorder=self.recorder,
            metrics=self.metrics,
            run_dir=self.run_dir,
            on_fatal=self.failed.set,
            clock=clock,
        )
        sender.start()
        self._senders.append(sender)
        return sender

    def close(self) -> None:
        """Stop the senders; none of them may have ended by itself."""
        for sender in self._senders:
            sender.stop()
        self.recorder.stop()
        self.journal.close()
        assert not self.failed.is_set()

    def rows(self, destination: str = "pacs") -> list[dict[str, Any]]:
        """The deliveries to a destination, in the order in which they were made, with their result's columns."""
        connection = sqlite3.connect(self._file)
        try:
            connection.row_factory = sqlite3.Row
            found = connection.execute(
                "SELECT d.*, IFNULL(r.kind, 'image') AS kind, IFNULL(r.path, i.path) AS path,"
                " IFNULL(r.sop_instance_uid, i.sop_instance_uid) AS sop_instance_uid "
                "FROM delivery d LEFT JOIN result r USING (result_id) LEFT JOIN instance i USING (instance_id) "
                "WHERE destination = ? ORDER BY delivery_id",
                (destination,),
            ).fetchall()
        finally:
            connection.close()
        return [dict(row) for row in found]

    def states(self, destination: str = "pacs") -> list[str]:
        """The state of each delivery to a destination."""
        return [row["state"] for row in self.rows(destination)]

    def are_delivered(self, destination: str = "pacs") -> bool:
        """Whether a destination has all."""
        return set(self.states(destination)) == {"delivered"}

    def count(self, outcome: str, destination: str = "pacs") -> float:
        """The metric of deliveries by outcome."""
        return self.metrics.deliveries.labels(destination, outcome)._value.get()  # type: ignore[no-any-return]
