"""The one way in: a file in ``incoming`` becomes a promised instance, or is refused with the reason."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from appliance.domain.states import Scope
from appliance.errors import RejectedInput
from appliance.intake.assessor import Assessor
from appliance.intake.file_meta import encode_head
from appliance.intake.forwarding import Forwarding
from appliance.intake.part10 import ScannedInstance, scan, scan_file
from appliance.intake.signs import announced_images
from appliance.journal.hints import send_hint
from appliance.journal.journal import Journal
from appliance.journal.records import Assessment, KnownInstance, ReceivedInstance, Registration
from appliance.observability.metrics import Metrics
from appliance.spool.durable import sync
from appliance.spool.incoming import Arrival, Incoming
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
    """What the sender says that the data set is, and that it is itself: its C-STORE request and calling AE title."""

    sop_class_uid: str
    sop_instance_uid: str
    calling_ae_title: str = ""


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
        forwarding: Forwarding,
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
        self._forwarding = forwarding
        self._stable_age_s = stable_age_s
        self._settle_s = settle_s
        self._count_announced = count_announced
        self._run_folder = run_folder
        # Two senders may bring the same UID at once. Locks are shared by chance, so that their number stays bounded.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def accept(
        self,
        incoming: Incoming,
        *,
        received_at: float,
        claim: Claim | None = None,
        data_set_sha256: Callable[[], str] | None = None,
    ) -> Acceptance:
        """Take in a file of ``spool.incoming``; when this returns, the promise may be given.

        Parameters
        ----------
        incoming
            A complete file that nobody writes to any more. The caller closes it, whatever comes of it; when it is
            refused, it is still there until then, and may be moved away.
        received_at
            When its last byte arrived, in seconds since 1970.
        claim
            What the sender says that it is, ``None`` when nothing was said.
        data_set_sha256
            Gives that of the bytes behind the file meta information, where the caller has summed them.

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
            acceptance, size = self._accept(incoming, received_at, claim, data_set_sha256)
        except RejectedInput as refusal:
            self.count_refusal(incoming.source, refusal)
            raise
        source = incoming.source
        self._metrics.instances.labels(source, acceptance.outcome).inc()
        self._metrics.instance_bytes.labels(source, acceptance.outcome).inc(size)
        self._metrics.store_seconds.labels(source).observe(max(0.0, time.time() - received_at))
        return acceptance

    def count_refusal(self, source: str, refusal: RejectedInput) -> None:
        """Count and log something that came from ``source`` and is not taken in."""
        self._metrics.instances.labels(source, refusal.reason).inc()
        _log.warning("refused an instance from %s: %s", source, refusal)

    def confirm(self) -> None:
        """Bring the journal and the names of what it holds to the disk; raises ``OSError`` as the disk does."""
        self._journal.check()  # what else is written by this role, end marks say, must not fail for ever and in silence
        placed = self.spool.incoming.take()
        if placed:
            self._journal.flush()
            self.spool.incoming.finish(placed)

    def recover(self) -> int:
        """Register again what a power failure took from the journal; return how many instances. Only at start."""
        recovered = 0
        for arrival in list(self.spool.incoming.left()):
            try:
                recovered += self._recover(arrival)
            except RejectedInput as refusal:
                # Promised files are whole: this one was not on the disk yet, and its sender got no answer.
                _log.warning("an instance whose arrival was cut short is removed: %s", refusal)
            except OSError as error:
                # It stays for the next start: one file that cannot be read must not keep all others from being taken.
                _log.error(
                    "an arrival cannot be taken up again (%s) and stays in incoming/ of the spool", error.strerror
                )
                continue
            self.spool.incoming.follow(arrival.path)
        self.confirm()
        return recovered

    def _recover(self, arrival: Arrival) -> bool:
        scanned = scan_file(arrival.path, max_bytes=self.max_instance_bytes)
        with arrival.path.open("rb") as stream:
            # A process that is killed between marking a file as whole and its flush leaves one that looks promised.
            # From here on it is: whoever sends it again is told that it is here.
            sync(stream.fileno())
            sha256 = _sha256(stream.fileno(), scanned.data_set_offset)
            size = os.fstat(stream.fileno()).st_size
        known = self._journal.instances.find(scanned.sop_instance_uid)
        if known is not None and known.sha256 != sha256:
            return False  # the other bytes of a known UID, and their sender got no answer
        target = self._target(scanned)
        self.spool.incoming.place(arrival.path, target)
        if known is not None:
            return False
        self._register(scanned, target, size, sha256, arrival.source, arrival.received_at, self._assess(scanned))
        return True

    def _target(self, scanned: ScannedInstance) -> Path:
        return self.spool.instance_path(
            scanned.study_instance_uid, scanned.series_instance_uid, scanned.sop_instance_uid
        )

    def _assess(self, scanned: ScannedInstance) -> list[Assessment]:
        return self._assessor.assess(
            Scope.INSTANCE, frozenset({scanned.sop_class_uid}), scanned.frames, scanned.attributes
        )

    def _accept(
        self,
        incoming: Incoming,
        received_at: float,
        claim: Claim | None,
        data_set_sha256: Callable[[], str] | None,
    ) -> tuple[Acceptance, int]:
        incoming.hasten()
        scanned = scan(incoming.descriptor, max_bytes=self.max_instance_bytes)
        if claim is not None:
            _check_claim(scanned, claim)
        self.spool.require_room()
        sum_up = data_set_sha256 or partial(_sha256, incoming.descriptor, scanned.data_set_offset)
        sha256 = sum_up()
        size = os.fstat(incoming.descriptor).st_size
        with self._locks[hash(scanned.sop_instance_uid) % _LOCKS]:
            known = self._journal.instances.find(scanned.sop_instance_uid)
            if known is None:
                sender = "" if claim is None else claim.calling_ae_title
                series_id = self._store(incoming, scanned, sha256, received_at, sender)
                acceptance = Acceptance(Outcome.STORED, scanned.series_instance_uid, series_id, scanned.frames)
            elif known.sha256 == sha256:
                if not self.spool.absolute(known.path).is_file():
                    self._put_back(incoming, scanned, known, received_at)
                acceptance = Acceptance(Outcome.DUPLICATE, scanned.series_instance_uid, None, scanned.frames)
            else:
                self._keep_apart(incoming, scanned, known, sha256, received_at)
                acceptance = Acceptance(Outcome.CONFLICT, scanned.series_instance_uid, None, scanned.frames)
        return acceptance, size

    def _put_back(self, incoming: Incoming, scanned: ScannedInstance, known: KnownInstance, received_at: float) -> None:
        """Give a known image whose file is gone its file again: a failed disk, say, or somebody who cleaned up."""
        whole = incoming if scanned.has_head else self._with_head(incoming, scanned)
        try:
            whole.promise(received_at)
            self.spool.incoming.place(whole.path, self.spool.absolute(known.path))
            self._journal.instances.found(known.instance_id)
            self.spool.incoming.follow(whole.path)
        finally:
            if whole is not incoming:
                whole.close()
        _log.warning("instance %d, whose file was gone, was sent again and has it back", known.instance_id)

    def _store(self, incoming: Incoming, scanned: ScannedInstance, sha256: str, received_at: float, sender: str) -> int:
        if scanned.has_head:
            return self._store_whole(incoming, scanned, sha256, received_at, sender)
        whole = self._with_head(incoming, scanned)
        try:
            return self._store_whole(whole, scanned, sha256, received_at, sender)
        finally:
            whole.close()

    def _store_whole(
        self, incoming: Incoming, scanned: ScannedInstance, sha256: str, received_at: float, sender: str
    ) -> int:
        assessments = self._assess(scanned)
        target, size = self._target(scanned), os.fstat(incoming.descriptor).st_size
        # The order is the promise: the file on the disk, then its place and the journal's commit, then the answer.
        # These two reach the disk a little later (``confirm``); what a power failure takes of them, ``recover`` puts
        # back from the file. A row without its file cannot come about.
        incoming.promise(received_at)
        try:
            self.spool.incoming.place(incoming.path, target)
            registration = self._register(
                scanned, target, size, sha256, incoming.source, received_at, assessments, sender
            )
        except BaseException:
            incoming.withdraw()
            target.unlink(missing_ok=True)
            raise
        self.spool.incoming.follow(incoming.path)
        self._assessor.count(assessments)
        if registration.jobs:
            send_hint(self._run_folder, "worker")
        self._forwarding.wake(registration.forwarded_to)
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
        sender: str = "",
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
            forward_to=self._forwarding.destinations(scanned.attributes, sender),
            settle_s=self._settle_s,
        )

    def _keep_apart(
        self,
        incoming: Incoming,
        scanned: ScannedInstance,
        known: KnownInstance,
        sha256: str,
        received_at: float,
    ) -> None:
        source = incoming.source
        path = self.spool.adopt(incoming.path, self.spool.conflict_path(scanned.sop_instance_uid, sha256))
        if self._journal.instances.add_conflict(known.instance_id, sha256, path, source, received_at):
            _log.warning(
                "an instance from %s has the UID of instance %d but other content; both are kept, the first one counts",
                source,
                known.instance_id,
            )

    def _with_head(self, bare: Incoming, scanned: ScannedInstance) -> Incoming:
        """A copy of a bare data set, with the preamble and file meta information that readers of the spool rely on."""
        whole = self.spool.incoming.new(bare.source)
        try:
            whole.write(encode_head(scanned.sop_class_uid, scanned.sop_instance_uid, scanned.transfer_syntax_uid))
            offset = scanned.data_set_offset
            while block := os.pread(bare.descriptor, _BLOCK_BYTES, offset):
                whole.write(block)
                offset += len(block)
        except BaseException:
            whole.close()
            raise
        return whole


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


def _sha256(descriptor: int, offset: int) -> str:
    """SHA-256 of an open file from ``offset`` on, in hexadecimal digits."""
    digest = hashlib.sha256()
    while block := os.pread(descriptor, _BLOCK_BYTES, offset):
        digest.update(block)
        offset += len(block)
    return digest.hexdigest()
