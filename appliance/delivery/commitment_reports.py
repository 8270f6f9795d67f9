"""Reports of storage commitments on associations of our own (N-EVENT-REPORT, PS3.4 section J.3.3), for days if need be.

For peers that ask and release. The appliance requests the association and is the provider on it, so it proposes that
role (PS3.7 section D.3.3.4); peers that know no role selection take the report as well.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from appliance.config.settings import Commitment, Peer, RemoteNode
from appliance.delivery.requestor import Requestor
from appliance.delivery.retry import is_given_up, wait_s
from appliance.delivery.status import is_warning
from appliance.domain.commitment import event_report
from appliance.errors import DeliveryRefused, DeliveryRetry, DestinationUnreachable
from appliance.journal.commitments import CommitmentReport
from appliance.journal.hints import HintSocket, send_hint
from appliance.journal.journal import Journal
from appliance.observability.guarded_thread import GuardedThread
from appliance.observability.metrics import Metrics

_log = logging.getLogger(__name__)

_POLL_S: Final = 1.0
_EAR: Final = "sender_commitments"
"""A destination is never called so: its ear is ``sender-`` and its name."""
_PASSING: Final = frozenset({0x0110, 0x0213})
"""Processing failure and resource limitation: troubles of the peer itself."""


class CommitmentReports:
    """Sends reports from ``start`` to ``stop``, in a thread of its own.

    Parameters
    ----------
    peers
        Where the port of each is; a peer without one gets reports on its own associations only.
    ae_title
        How the appliance calls itself.
    run_folder
        Where the wake-up sockets are.
    on_fatal
        Called when the thread has failed and the role has to end.
    """

    def __init__(
        self,
        settings: Commitment,
        peers: Sequence[Peer],
        *,
        ae_title: str,
        journal: Journal,
        metrics: Metrics,
        run_folder: Path,
        on_fatal: Callable[[], None],
    ) -> None:
        self._timeout_s = settings.timeout_s
        self._retry = settings.retry
        self._peers = peers
        self._ae_title = ae_title
        self._commitments = journal.commitments
        self._metrics = metrics
        self._run_folder = run_folder
        self._stopping = False
        self._thread = GuardedThread("commitment-reports", self._run, on_fatal)

    def start(self) -> None:
        """Begin with what waits."""
        self._thread.start()

    def stop(self) -> None:
        """End; a report that is under way is sent again at the next start."""
        self._stopping = True
        send_hint(self._run_folder, _EAR)
        self._thread.end(2 * _POLL_S)

    def _run(self) -> None:
        with closing(HintSocket(self._run_folder, _EAR)) as ear:
            while not self._stopping:
                due_at = self._commitments.next_available_at()
                wait = _POLL_S if due_at is None else due_at - time.time()
                if wait > 0:
                    ear.wait(min(wait, _POLL_S))
                elif (report := self._commitments.begin(time.time())) is not None:
                    self._tell(report)

    def _tell(self, first: CommitmentReport) -> None:
        """Send what is due to the peer of this report, over one association."""
        peer = (first.ae_title, first.address)
        report: CommitmentReport | None = first
        try:
            with self._requestor(first).association() as association:
                while report is not None:
                    self._send(association, report)
                    report = None if self._stopping else self._commitments.begin(time.time(), peer=peer)
        except DeliveryRetry as error:
            attempt = first.attempt if report is None else report.attempt
            rest_s = wait_s(self._retry, attempt, random.random())
            now = time.time()
            self._metrics.commitment_reports.labels("postponed").inc()
            _log.warning("reports of storage commitments wait, next try in %.0f s: %s", rest_s, error)
            failed = self._commitments.delay(peer, now + rest_s, now - self._retry.give_up_after_s, str(error))
            if failed:
                self._metrics.commitment_reports.labels("failed").inc(failed)
                _log.error("%d report(s) of storage commitments are given up", failed)

    def _requestor(self, report: CommitmentReport) -> Requestor:
        """Of associations with the peer: at the host that is set for it, else where it asked from."""
        known = [peer for peer in self._peers if peer.ae_title.strip() == report.ae_title and peer.port is not None]
        # Of several with one AE title the one that asked, if its address is set.
        known.sort(key=lambda peer: peer.host != report.address)
        if not known or known[0].port is None:
            raise DestinationUnreachable(
                f"no port of {report.ae_title!r} is known, and the association that asked has ended",
                mend="Name the peer with its port in dicom.peers, then restart",
            )
        node = RemoteNode(
            ae_title=known[0].ae_title,
            host=known[0].host or report.address,
            port=known[0].port,
            timeout_s=self._timeout_s,
        )
        return Requestor(node, self._ae_title, [StorageCommitmentPushModel], as_provider=True)

    def _send(self, association: Association, report: CommitmentReport) -> None:
        """Send one report and note what became of it.

        Raises
        ------
        DeliveryRetry
            The association is gone; the report is where it was.
        """
        now = time.time()
        try:
            status = _sent(association, report)
            _judge(status)
        except DeliveryRefused as error:
            self._fail(report, now, error)
        except DeliveryRetry as error:
            if error.status is None:
                raise
            if is_given_up(self._retry, report.created_at, now):
                self._fail(report, now, error)
                return
            available_at = now + wait_s(self._retry, report.attempt, random.random())
            self._commitments.postpone(report.commitment_id, available_at, error.status, str(error))
            self._metrics.commitment_reports.labels("postponed").inc()
            _log.warning("the report of commitment %d waits: %s", report.commitment_id, error)
        else:
            if self._commitments.reported(report.commitment_id, now, status):
                self._metrics.commitment_reports.labels("reported").inc()
                _log.info("commitment %d is reported", report.commitment_id)

    def _fail(self, report: CommitmentReport, now: float, error: DeliveryRefused | DeliveryRetry) -> None:
        self._commitments.fail(report.commitment_id, now, error.status, str(error))
        self._metrics.commitment_reports.labels("failed").inc()
        _log.error("the report of commitment %d failed: %s", report.commitment_id, error)


def _sent(association: Association, report: CommitmentReport) -> int:
    """Send a report; return the status of its answer."""
    event_type, information = event_report(report.transaction_uid, report.references)
    try:
        answer, _ = association.send_n_event_report(
            information, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
    except RuntimeError as error:
        raise DeliveryRetry("the peer has ended the association") from error
    if "Status" not in answer:
        raise DeliveryRetry("the peer did not answer the report", mend="Look at its log; it is tried again by itself")
    status: int = answer.Status
    return status


def _judge(status: int) -> None:
    """Pass what means that the peer knows."""
    if status == 0x0000 or is_warning(status):
        return
    found = f"the peer answered the report of a storage commitment with 0x{status:04X}"
    if status in _PASSING:
        raise DeliveryRetry(found, status=status, mend="Look at its log; it is tried again by itself")
    raise DeliveryRefused(found, status=status, mend="Mend the peer, then: appliance requeue --commitments")
