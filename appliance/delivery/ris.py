"""Sending on to the RIS what modalities say of their procedure steps (PS3.4 annex F.7): as it came, in order, for days.

A modality is often given one MPPS node only. The appliance then stands before the RIS, and owes it each message.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.dsutils import decode
from pynetdicom.sop_class import ModalityPerformedProcedureStep  # type: ignore[attr-defined]

from appliance.config.settings import Ris
from appliance.delivery.requestor import Requestor
from appliance.delivery.retry import is_given_up, wait_s
from appliance.delivery.status import is_warning
from appliance.errors import DeliveryRefused, DeliveryRetry
from appliance.journal.hints import HintSocket, send_hint
from appliance.journal.journal import Journal
from appliance.journal.records import StepMessage
from appliance.observability.guarded_thread import GuardedThread
from appliance.observability.metrics import Metrics

_log = logging.getLogger(__name__)

_POLL_S: Final = 1.0
_EAR: Final = "sender_ris"
"""A destination is never called so: its ear is ``sender-`` and its name."""

_DUPLICATE_SOP_INSTANCE: Final = 0x0111
_NO_LONGER_UPDATED: Final = 0xA710
_PASSING: Final = frozenset({0x0110, 0x0213})
"""Processing failure and resource limitation: troubles of the RIS itself."""

_MEANINGS: Final = {
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0110: "processing failure",
    0x0112: "no such procedure step",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0120: "missing attribute",
    0x0121: "missing attribute value",
    0x0124: "not authorised",
    0x0213: "resource limitation",
}


class RisSender:
    """Sends from ``start`` to ``stop``, in a thread of its own.

    Parameters
    ----------
    ae_title
        How the appliance calls itself.
    run_folder
        Where the wake-up sockets are.
    on_fatal
        Called when the thread has failed and the role has to end.
    """

    def __init__(
        self,
        ris: Ris,
        *,
        ae_title: str,
        journal: Journal,
        metrics: Metrics,
        run_folder: Path,
        on_fatal: Callable[[], None],
    ) -> None:
        self._retry = ris.retry
        self._requestor = Requestor(ris, ae_title, [ModalityPerformedProcedureStep])
        self._messages = journal.step_messages
        self._metrics = metrics
        self._run_folder = run_folder
        self._failures = 0
        self._rest_until = 0.0  # by time.monotonic
        self._stopping = False
        self._thread = GuardedThread("ris", self._run, on_fatal)

    def start(self) -> None:
        """Begin with what waits."""
        self._thread.start()

    def stop(self) -> None:
        """End; a message that is under way is sent again at the next start, and the RIS knows it by its UID."""
        self._stopping = True
        send_hint(self._run_folder, _EAR)
        self._thread.end(2 * _POLL_S)

    def _run(self) -> None:
        with closing(HintSocket(self._run_folder, _EAR)) as ear:
            while not self._stopping:
                due_at = self._messages.next_available_at()
                wait = _POLL_S if due_at is None else due_at - time.time()
                wait = max(wait, self._rest_until - time.monotonic())
                if wait > 0:
                    ear.wait(min(wait, _POLL_S))
                else:
                    self._empty()

    def _empty(self) -> None:
        """Send what is due, over one association."""
        try:
            with self._requestor.association() as association:
                while not self._stopping and (message := self._messages.begin(time.time())) is not None:
                    self._send(association, message)
                    self._failures = 0
        except DeliveryRetry as error:
            self._failures += 1
            rest_s = wait_s(self._retry, self._failures, random.random())
            self._rest_until = time.monotonic() + rest_s
            self._metrics.step_messages.labels("postponed").inc()
            _log.warning("messages about procedure steps wait, next try in %.0f s: %s", rest_s, error)
            now = time.time()
            failed = self._messages.delay(now, now - self._retry.give_up_after_s, str(error))
            if failed:
                self._metrics.step_messages.labels("failed").inc(failed)
                _log.error("%d message(s) about procedure steps are given up", failed)

    def _send(self, association: Association, message: StepMessage) -> None:
        """Send one message and note what became of it.

        Raises
        ------
        DeliveryRetry
            The association is gone; the message is where it was.
        """
        now = time.time()
        try:
            status = _sent(association, message)
            _judge(message, status)
        except DeliveryRefused as error:
            self._messages.fail(message.step_message_id, now, error.status, str(error))
            self._metrics.step_messages.labels("failed").inc()
            _log.error("a message about a procedure step failed: %s", error)
        except DeliveryRetry as error:
            if error.status is None:
                raise
            if is_given_up(self._retry, message.created_at, now):
                self._messages.fail(message.step_message_id, now, error.status, str(error))
                self._metrics.step_messages.labels("failed").inc()
                _log.error("a message about a procedure step is given up: %s", error)
                return
            available_at = now + wait_s(self._retry, message.attempt, random.random())
            self._messages.postpone(message.step_message_id, available_at, error.status, str(error))
            self._metrics.step_messages.labels("postponed").inc()
            _log.warning("a message about a procedure step waits: %s", error)
        else:
            self._messages.delivered(message.step_message_id, now, status.Status)
            self._metrics.step_messages.labels("delivered").inc()


def _sent(association: Association, message: StepMessage) -> Dataset:
    """Send a message; return the status data set of its answer."""
    data_set = decode(BytesIO(message.data_set), False, True)
    request = association.send_n_create if message.operation == "N-CREATE" else association.send_n_set
    try:
        status, _ = request(data_set, ModalityPerformedProcedureStep, message.sop_instance_uid)
    except RuntimeError as error:
        raise DeliveryRetry("the RIS has ended the association") from error
    except ValueError as error:
        raise DeliveryRefused("the message cannot be written as the RIS wants it", mend="Look at the log") from error
    if "Status" not in status:
        raise DeliveryRetry(
            f"the RIS did not answer an {message.operation}", mend="Look at its log; it is tried again by itself"
        )
    return status


def _judge(message: StepMessage, answer: Dataset) -> None:
    """Pass what means that the RIS has it."""
    status: int = answer.Status
    if status == 0x0000 or is_warning(status):
        return
    if message.operation == "N-CREATE" and status == _DUPLICATE_SOP_INSTANCE:
        return  # an earlier attempt got through although its answer was lost
    has_ended = status == 0x0110 and answer.get("ErrorID") == _NO_LONGER_UPDATED
    if has_ended and message.attempt > 1:
        return  # so did this one, which ended the step
    # Not its Error Comment: that may name a patient, and this is shown on status pages.
    meaning = "the step has ended" if has_ended else _MEANINGS.get(status, "not in the Standard's list")
    found = f"the RIS answered an {message.operation} with 0x{status:04X} ({meaning})"
    if status in _PASSING and not has_ended:
        raise DeliveryRetry(found, status=status, mend="Look at its log; it is tried again by itself")
    raise DeliveryRefused(found, status=status, mend="Mend the RIS, then: appliance requeue --procedure-steps")
