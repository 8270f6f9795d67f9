"""The Storage Commitment SCP (Push Model, PS3.4 annex J): peers ask whether instances are safe here, and are told.

1. A request (N-ACTION) is in the journal, on the disk, before it is answered.
2. It is judged once all that it names is here, or ``wait_s`` after it came: senders ask while their images arrive.
3. The report (N-EVENT-REPORT) goes back on the association that asked, if that stays open; else the sender role makes
   an association with the peer, again and again for days. What of this was done is in the journal as well: whichever
   role is killed, and when, the report is sent. A report whose answer was lost is sent once more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from appliance.config.settings import Commitment
from appliance.domain.commitment import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    CommitmentReference,
    event_report,
)
from appliance.errors import SpoolFull
from appliance.intake.assembler import Assembler
from appliance.intake.commitment_request import (
    INVALID_ARGUMENT_VALUE,
    NO_SUCH_SOP_CLASS,
    RESOURCE_LIMITATION,
    CommitmentRefused,
    read_request,
)
from appliance.intake.dimse_service import Handler
from appliance.intake.event_reports import EventReport, EventReports
from appliance.journal.commitments import NamedInstance, PendingCommitment
from appliance.journal.hints import send_hint
from appliance.journal.journal import Journal
from appliance.observability.guarded_thread import GuardedThread
from appliance.observability.metrics import Metrics
from appliance.spool.spool import Spool

_log = logging.getLogger(__name__)

SUCCESS: Final = 0x0000
COMMITTED: Final = "committed"
"""The sign of a series that is complete because its sender has asked for the commitment of all of it."""

_MAX_COMMENT: Final = 64
_POLL_S: Final = 0.1
"""While something waits for instances, or for the end of an association."""
_IDLE_POLL_S: Final = 1.0
_RELEASE_S: Final = 0.3
"""Peers that do not want the report on the association that asked release it at once: they get this long for it, as
some of them do not understand a request that crosses their release."""


@dataclass(slots=True)
class _Asker:
    """The association that asked, of a commitment whose report it may still take."""

    reports: EventReports
    context: PresentationContext
    send_at: float  # by time.monotonic
    sent: bool = False


class CommitmentScp:
    """Takes requests as a service of the node, and judges them in a thread of its own, from ``start`` to ``stop``.

    Parameters
    ----------
    assembler
        Told of the series that a request names as a whole.
    run_folder
        Where the wake-up sockets are.
    on_fatal
        Called when the thread has failed and the role has to end.
    """

    sop_class_uids = (str(StorageCommitmentPushModel),)

    def __init__(
        self,
        settings: Commitment,
        *,
        journal: Journal,
        spool: Spool,
        assembler: Assembler,
        metrics: Metrics,
        run_folder: Path,
        on_fatal: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._commitments = journal.commitments
        self._spool = spool
        self._assembler = assembler
        self._metrics = metrics
        self._run_folder = run_folder
        self._lock = threading.Lock()
        self._reports: dict[Association, EventReports] = {}
        self._askers: dict[int, _Asker] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._thread = GuardedThread("commitment", self._run, on_fatal)

    @property
    def handlers(self) -> list[Handler]:
        """Of N-ACTION."""
        return [(evt.EVT_N_ACTION, self._asked)]

    def start(self) -> None:
        """Begin with what an earlier life left unjudged."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End; what is not judged or not reported stays in the journal."""
        self._stopping = True
        self._wake.set()
        self._thread.end(timeout_s)

    def _asked(self, event: Any) -> tuple[Dataset, None]:
        """EVT_N_ACTION, on the association's thread."""
        answer = Dataset()
        try:
            outcome = self._take(event)
            answer.Status = SUCCESS
        except CommitmentRefused as refusal:
            outcome = "refused"
            _log.warning("refused a request for storage commitment: %s", refusal.comment)
            answer.Status, answer.ErrorComment = refusal.status, refusal.comment[:_MAX_COMMENT]
        except (SpoolFull, OSError) as error:
            outcome = "no-room" if isinstance(error, SpoolFull) else "disk-error"
            reason = error if isinstance(error, SpoolFull) else error.strerror
            _log.error("cannot keep a request for storage commitment: %s", reason)
            answer.Status, answer.ErrorComment = RESOURCE_LIMITATION, "no room, or the disk failed"
        except Exception:  # noqa: BLE001 - the library would answer 0x0110 and tell nobody; the peer may try again
            outcome = "error"
            _log.exception("cannot take a request for storage commitment")
            answer.Status, answer.ErrorComment = PROCESSING_FAILURE, "internal error, see the log"
        self._metrics.commitments.labels(outcome).inc()
        return answer, None

    def _take(self, event: Any) -> str:
        association: Association = event.assoc
        if {str(event.request.RequestedSOPClassUID), str(event.context.abstract_syntax)} != set(self.sop_class_uids):
            raise CommitmentRefused(NO_SUCH_SOP_CLASS, "the SOP class is not that of the context")
        transaction_uid, references = read_request(
            event.request.RequestedSOPInstanceUID,
            event.request.ActionTypeID,
            lambda: event.action_information,
            max_references=self._settings.max_references,
        )
        self._spool.require_room()  # however many requests a peer sends, they do not fill the disk
        now = time.time()
        commitment_id = self._commitments.ask(
            transaction_uid,
            references,
            ae_title=association.requestor.ae_title.strip(),
            address=str(association.requestor.address),
            judge_at=now + self._settings.wait_s,
            now=now,
        )
        if commitment_id is None:
            raise CommitmentRefused(INVALID_ARGUMENT_VALUE, "the Transaction UID is in use for other instances")
        context = next(c for c in association.accepted_contexts if c.context_id == event.context.context_id)
        with self._lock:
            if association not in self._reports:
                self._reports[association] = EventReports(association)
            self._askers[commitment_id] = _Asker(self._reports[association], context, time.monotonic() + _RELEASE_S)
        self._wake.set()
        _log.info("%r asks for the commitment of %d instance(s)", association.requestor.ae_title, len(references))
        return "taken"

    def _run(self) -> None:
        while not self._stopping:
            pending = self._commitments.pending()
            for commitment in pending:
                if commitment.is_here or commitment.judge_at <= time.time():
                    self._judge(commitment)
            self._tell_askers()
            self._wake.wait(_POLL_S if pending or self._askers else _IDLE_POLL_S)
            self._wake.clear()

    def _judge(self, commitment: PendingCommitment) -> None:
        """Find out what is safe here, and queue the report."""
        commitment_id = commitment.commitment_id
        named = self._commitments.named(commitment_id)
        self._journal.flush()  # rows that were found may not be on the disk yet
        references = [
            CommitmentReference(instance.sop_class_uid, instance.sop_instance_uid, self._failure(instance))
            for instance in named
        ]
        failed = sum(reference.failure is not None for reference in references)
        with self._lock:
            is_asker_there = commitment_id in self._askers
        # While the association that asked may take the report, the sender role leaves it alone.
        hold_s = _RELEASE_S + self._settings.timeout_s if is_asker_there else 0.0
        if not failed:
            self._settle(commitment_id)
        if not self._commitments.judged(commitment_id, references, time.time() + hold_s):
            return
        self._metrics.committed_instances.labels("committed").inc(len(references) - failed)
        self._metrics.committed_instances.labels("failed").inc(failed)
        _log.log(
            logging.WARNING if failed else logging.INFO,
            "commitment %d: %d of %d instance(s) are safe here",
            commitment_id,
            len(references) - failed,
            len(references),
        )
        if not is_asker_there:
            send_hint(self._run_folder, "sender_commitments")

    def _failure(self, instance: NamedInstance) -> int | None:
        """Why an instance cannot be committed (Failure Reason (0008,1197)); ``None``: its file is whole."""
        if instance.path is None:
            return NO_SUCH_INSTANCE
        if instance.found_sop_class_uid != instance.sop_class_uid:
            return CLASS_INSTANCE_CONFLICT
        try:
            size = self._spool.absolute(instance.path).stat().st_size
        except OSError:
            size = None
        if size == instance.bytes:
            return None
        _log.error("a file of the spool is missing or damaged: its commitment is refused")
        return PROCESSING_FAILURE

    def _settle(self, commitment_id: int) -> None:
        series_ids = self._commitments.whole_series(commitment_id)
        if series_ids:
            self._assembler.settle(series_ids, time.time(), COMMITTED)

    def _tell_askers(self) -> None:
        """Send reports on the associations that asked; leave those whose association is gone to the sender role."""
        with self._lock:
            self._reports = {a: reports for a, reports in self._reports.items() if reports.is_open}
            askers = list(self._askers.items())
        for commitment_id, asker in askers:
            report = None if asker.sent else self._commitments.report(commitment_id)
            if not asker.reports.is_open:
                self._forget(commitment_id)
                self._leave_to_sender(commitment_id, None, None)
            elif report is not None and time.monotonic() >= asker.send_at:
                asker.sent = True
                event_type, information = event_report(report.transaction_uid, report.references)
                asker.reports.send(
                    asker.context,
                    EventReport(
                        str(StorageCommitmentPushModel),
                        str(StorageCommitmentPushModelInstance),
                        event_type,
                        information,
                    ),
                    partial(self._answered, commitment_id),
                )

    def _answered(self, commitment_id: int, status: int) -> None:
        """On the association's thread."""
        self._forget(commitment_id)
        if status != SUCCESS:
            self._leave_to_sender(commitment_id, status, f"the report was answered with 0x{status:04X}")
        elif self._commitments.reported(commitment_id, time.time(), status):
            self._metrics.commitment_reports.labels("reported").inc()
            _log.info("commitment %d is reported", commitment_id)

    def _forget(self, commitment_id: int) -> None:
        with self._lock:
            self._askers.pop(commitment_id, None)

    def _leave_to_sender(self, commitment_id: int, status: int | None, message: str | None) -> None:
        self._commitments.postpone(commitment_id, time.time(), status, message)
        send_hint(self._run_folder, "sender_commitments")
