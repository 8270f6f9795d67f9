"""The one way in: a file in ``incoming`` becomes a promised instance, or is refused with the reason."""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from appliance.domain.states import Scope
from appliance.errors import RejectedInput
from appliance.intake.assessor import Assessor
from appliance.intake.file_meta import encode_head
from appliance.intake.part10 import ScannedInstance, scan_file
from appliance.intake.signs import announced_images
from appliance.journal.hints import send_hint
from appliance.journal.journal import Journal
from appliance.journal.records import Assessment, KnownInstance, ReceivedInstance, Registration
from appliance.observability.metrics import Metrics
from appliance.spool.arrivals import Arrival
from appliance.spool.spool import Spool

_log = logging.getLogger(__name__)

_BLOCK_BYTES = 1024 * 1024
_LOCKS = 64


class Outcome(StrEnum):
    """What became of an instance that was taken in; also a metric label."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Claim:
    """What the sender says that the data set is: Affected SOP Class and Instance UID of its C-STORE request."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A promise that may be given: the instance is durable.

    ``series_id`` is the journal's, ``None`` unless the instance is new; ``images`` counts frames.
    """

    outcome: Outcome
    series_instance_uid: str
    series_id: int | None
    images: int


class InstanceStore:
    """Takes instances in, from any thread.

    Parameters
    ----------
    stable_age_s
        After the last image of a series, how long until it may be called complete without a better sign.
    settle_s
        The same when as many images are here as they announce.
    count_announced
        Whether what images say about their number counts (``signs.announced_images``).
    max_instance_bytes
        Largest file that is taken.
    run_folder
        Where the workers' wake-up sockets are.
    """

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        assessor: Assessor,
        metrics: Metrics,
        *,
        stable_age_s: float,
        settle_s: float,
        count_announced: bool,
        max_instance_bytes: int,
        run_folder: Path,
    ) -> None:
        self.spool = spool
        self.max_instance_bytes = max_instance_bytes
        self._journal = journal
        self._assessor = assessor
        self._metrics = metrics
        self._stable_age_s = stable_age_s
        self._settle_s = settle_s
        self._count_announced = count_announced
        self._run_folder = run_folder
        # Two senders may bring the same UID at once. Locks are shared by chance, so that their number stays bounded.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def accept(
        self,
        incoming: Path,
        *,
        source: str,
        received_at: float,
        claim: Claim | None = None,
        data_set_sha256: str | None = None,
    ) -> Acceptance:
        """Take in a file of ``spool.incoming``; when this returns, the promise may be given.

        Parameters
        ----------
        incoming
            A complete file that nobody writes to any more. It is moved or removed; when it is refused, it is still
            there and the caller's to remove or to keep apart.
        source
            ``dicom`` or ``dropfolder``.
        received_at
            When its last byte arrived, in seconds since 1970.
        claim
            What the sender says that it is, ``None`` when nothing was said.
        data_set_sha256
            Of the bytes behind the file meta information, when they were summed as they arrived.

        Raises
        ------
        RejectedInput
            The reasons of ``part10.scan``, or ``mismatch`` when the data set is not what the sender claims.
        SpoolFull
            The disk is below its water mark.
        OSError
            The disk failed; nothing is promised.
        """
        try:
            acceptance, size = self._accept(incoming, source, received_at, claim, data_set_sha256)
        except RejectedInput as refusal:
            self.count_refusal(source, refusal)
            raise
        self._metrics.instances.labels(source, acceptance.outcome).inc()
        self._metrics.instance_bytes.labels(source, acceptance.outcome).inc(size)
        self._metrics.store_seconds.labels(source).observe(max(0.0, time.time() - received_at))
        return acceptance

    def count_refusal(self, source: str, refusal: RejectedInput) -> None:
        """Count and log something that came from ``source`` and is not taken in."""
        self._metrics.instances.labels(source, refusal.reason).inc()
        _log.warning("refused an instance from %s: %s", source, refusal)

    def confirm(self) -> None:
        """Bring the journal to the disk, and remove the marks of what it holds; raises ``OSError`` as the disk does."""
        marks = self.spool.arrivals.take()
        if marks:
            self._journal.flush()
        for mark in marks:
            mark.unlink(missing_ok=True)

    def recover(self) -> int:
        """Register again what a power failure took from the journal; return how many instances. Only at start."""
        recovered = 0
        for arrival in list(self.spool.arrivals.left()):
            try:
                recovered += self._recover(arrival)
            except RejectedInput as refusal:
                # Promised files are whole: this one was not on the disk yet, and its sender got no answer.
                _log.warning("an instance whose arrival was cut short is removed: %s", refusal)
            except OSError as error:
                # It stays for the next start: one file that cannot be read must not keep all others from being taken.
                _log.error(
                    "an arrival cannot be taken up again (%s) and stays in arrivals/ of the spool", error.strerror
                )
                continue
            self.spool.arrivals.follow(arrival.mark)
        self.confirm()
        return recovered

    def _recover(self, arrival: Arrival) -> bool:
        scanned = scan_file(arrival.mark, max_bytes=self.max_instance_bytes)
        if self._journal.instances.find(scanned.sop_instance_uid) is not None:
            return False
        target = self.spool.instance_path(
            scanned.study_instance_uid, scanned.series_instance_uid, scanned.sop_instance_uid
        )
        self.spool.arrivals.restore(arrival.mark, target)
        assessments = self._assess(scanned)
        sha256, size = _sha256(arrival.mark, scanned.data_set_offset), arrival.mark.stat().st_size
        self._register(scanned, target, size, sha256, arrival.source, arrival.received_at, assessments)
        return True

    def _assess(self, scanned: ScannedInstance) -> list[Assessment]:
        return self._assessor.assess(
            Scope.INSTANCE, frozenset({scanned.sop_class_uid}), scanned.frames, scanned.attributes
        )

    def _accept(
        self, incoming: Path, source: str, received_at: float, claim: Claim | None, data_set_sha256: str | None
    ) -> tuple[Acceptance, int]:
        scanned = scan_file(incoming, max_bytes=self.max_instance_bytes)
        if claim is not None:
            _check_claim(scanned, claim)
        self.spool.require_room()
        sha256 = data_set_sha256 or _sha256(incoming, scanned.data_set_offset)
        size = incoming.stat().st_size
        with self._locks[hash(scanned.sop_instance_uid) % _LOCKS]:
            known = self._journal.instances.find(scanned.sop_instance_uid)
            if known is None:
                series_id = self._store(incoming, scanned, size, sha256, source, received_at)
                acceptance = Acceptance(Outcome.STORED, scanned.series_instance_uid, series_id, scanned.frames)
            elif known.sha256 == sha256:
                incoming.unlink()
                acceptance = Acceptance(Outcome.DUPLICATE, scanned.series_instance_uid, None, scanned.frames)
            else:
                self._keep_apart(incoming, scanned, known, sha256, source, received_at)
                acceptance = Acceptance(Outcome.CONFLICT, scanned.series_instance_uid, None, scanned.frames)
        return acceptance, size

    def _store(
        self, incoming: Path, scanned: ScannedInstance, size: int, sha256: str, source: str, received_at: float
    ) -> int:
        if not scanned.has_head:
            self._add_head(incoming, scanned)
            size = incoming.stat().st_size
        assessments = self._assess(scanned)
        target = self.spool.instance_path(
            scanned.study_instance_uid, scanned.series_instance_uid, scanned.sop_instance_uid
        )
        # The order is the promise: bytes, name and mark on the disk, then the journal's commit, then the answer. The
        # commit reaches the disk a little later (``confirm``); what a power failure takes of it, ``recover`` puts back
        # from the mark. A row without its file cannot come about.
        mark = self.spool.arrivals.move(incoming, target, source, received_at)
        registration = self._register(scanned, target, size, sha256, source, received_at, assessments)
        self.spool.arrivals.follow(mark)
        self._assessor.count(assessments)
        if registration.jobs:
            send_hint(self._run_folder, "worker")
        if registration.awaited:
            send_hint(self._run_folder, "assembler")
        if registration.revision > 1:
            self._metrics.late_images.inc()
        if registration.reopened:
            self._metrics.revisions.inc()
            _log.info("a late image opened revision %d of series %d", registration.revision, registration.series_id)
        return registration.series_id

    def _register(
        self,
        scanned: ScannedInstance,
        target: Path,
        size: int,
        sha256: str,
        source: str,
        received_at: float,
        assessments: Sequence[Assessment],
    ) -> Registration:
        return self._journal.instances.register(
            ReceivedInstance(
                study_instance_uid=scanned.study_instance_uid,
                series_instance_uid=scanned.series_instance_uid,
                sop_instance_uid=scanned.sop_instance_uid,
                sop_class_uid=scanned.sop_class_uid,
                transfer_syntax_uid=scanned.transfer_syntax_uid,
                frames=scanned.frames,
                attributes=scanned.attributes,
                path=self.spool.relative(target),
                bytes=size,
                sha256=sha256,
                source=source,
                received_at=received_at,
                announced=announced_images(scanned) if self._count_announced else 0,
            ),
            assessments,
            stable_age_s=self._stable_age_s,
            settle_s=self._settle_s,
        )

    def _keep_apart(
        self,
        incoming: Path,
        scanned: ScannedInstance,
        known: KnownInstance,
        sha256: str,
        source: str,
        received_at: float,
    ) -> None:
        path = self.spool.adopt(incoming, self.spool.conflict_path(scanned.sop_instance_uid, sha256))
        if self._journal.instances.add_conflict(known.instance_id, sha256, path, source, received_at):
            _log.warning(
                "an instance from %s has the UID of instance %d but other content; both are kept, the first one counts",
                source,
                known.instance_id,
            )

    def _add_head(self, incoming: Path, scanned: ScannedInstance) -> None:
        """Give a bare data set the preamble and file meta information that readers of the spool rely on."""
        whole = self.spool.new_incoming()
        try:
            with incoming.open("rb") as bare, whole.open("wb") as target:
                bare.seek(scanned.data_set_offset)
                target.write(encode_head(scanned.sop_class_uid, scanned.sop_instance_uid, scanned.transfer_syntax_uid))
                shutil.copyfileobj(bare, target, _BLOCK_BYTES)
            whole.replace(incoming)
        except BaseException:
            whole.unlink(missing_ok=True)
            raise


def _check_claim(scanned: ScannedInstance, claim: Claim) -> None:
    for name, found, claimed in (
        ("SOP Class UID", scanned.sop_class_uid, claim.sop_class_uid),
        ("SOP Instance UID", scanned.sop_instance_uid, claim.sop_instance_uid),
    ):
        if found != claimed:
            raise RejectedInput(
                "mismatch",
                f"the {name} of the data set is not that of the request",
                expected="the same UID in both (PS3.4 section B.2.3)",
                mend="The sender has to be mended",
            )


def _sha256(path: Path, offset: int) -> str:
    """SHA-256 of a file from ``offset`` on, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(offset)
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
