"""The Storage SCP's answers: a data set that has come is taken in, or refused with a status (PS3.4 section B.2.3)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from appliance.errors import RejectedInput, SpoolFull
from appliance.intake.association import SOURCE, OpenAssociation
from appliance.intake.incoming_file import IncomingFile
from appliance.intake.store import Acceptance, Claim, InstanceStore
from appliance.observability.metrics import Metrics
from appliance.spool.durable import SyncFailed

_log = logging.getLogger(__name__)

# PS3.4 section B.2.3 and PS3.7 annex C.
SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
PROCESSING_FAILURE: Final = 0x0110
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
_STATUS_OF_REASON: Final = {"mismatch": DOES_NOT_MATCH, "sop-class": SOP_CLASS_NOT_SUPPORTED}
"""Where it is not ``CANNOT_UNDERSTAND``."""
_MAX_COMMENT: Final = 64


class StoreAnswers:
    """Takes in what comes by C-STORE and says how it is answered, from any thread.

    Parameters
    ----------
    other_sop_class_uids
        Abstract syntaxes that may be negotiated and are no storage SOP classes.
    add
        Notes what an association has brought.
    on_fatal
        Called when the disk has failed and the role has to end.
    """

    def __init__(
        self,
        store: InstanceStore,
        metrics: Metrics,
        other_sop_class_uids: Iterable[str],
        add: Callable[[OpenAssociation, Acceptance], None],
        *,
        on_fatal: Callable[[], None],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._add = add
        self._on_fatal = on_fatal
        self._others = frozenset({str(Verification), *other_sop_class_uids})

    def answer(
        self, entry: OpenAssociation, incoming: object, claim: Claim, abstract_syntax: str, received_at: float
    ) -> tuple[int, str]:
        """Take an instance in; return the status and, for failures, an Error Comment (PS3.7 section C.5).

        Parameters
        ----------
        incoming
            An ``IncomingFile``, which is closed; anything else means that the request had no data set.
        abstract_syntax
            That of the request's context.
        received_at
            When the last byte came, in seconds since 1970.
        """
        status, comment = self._outcome(entry, incoming, claim, abstract_syntax, received_at)
        return status, comment[:_MAX_COMMENT]

    def _outcome(
        self, entry: OpenAssociation, incoming: object, claim: Claim, abstract_syntax: str, received_at: float
    ) -> tuple[int, str]:
        try:
            self._take(entry, incoming, claim, abstract_syntax, received_at)
            return SUCCESS, ""
        except RejectedInput as refusal:
            entry.outcomes[refusal.reason] += 1
            return _STATUS_OF_REASON.get(refusal.reason, CANNOT_UNDERSTAND), refusal.what
        except (SpoolFull, OSError) as error:
            reason = "no-room" if isinstance(error, SpoolFull) else "disk-error"
            entry.outcomes[reason] += 1
            self._metrics.instances.labels(SOURCE, reason).inc()
            _log.error("cannot store an instance: %s", error if isinstance(error, SpoolFull) else error.strerror)
            if isinstance(error, SyncFailed):
                self._on_fatal()
            return OUT_OF_RESOURCES, "no room, or the disk failed"
        except Exception:  # noqa: BLE001 - the library would answer 0xC211 and tell nobody; the peer may try again
            entry.outcomes["error"] += 1
            self._metrics.instances.labels(SOURCE, "error").inc()
            _log.exception("cannot store an instance")
            return PROCESSING_FAILURE, "internal error, see the log"
        finally:
            if isinstance(incoming, IncomingFile):
                incoming.discard()

    def _take(
        self, entry: OpenAssociation, incoming: object, claim: Claim, abstract_syntax: str, received_at: float
    ) -> None:
        if not isinstance(incoming, IncomingFile):
            refusal = RejectedInput("no-data-set", "the request has no data set", mend="The sender has to be mended")
            self._store.count_refusal(SOURCE, refusal)
            raise refusal
        # What was negotiated holds for as long as the association does, whatever is offered to others by now.
        if claim.sop_class_uid != abstract_syntax or abstract_syntax in self._others:
            refusal = RejectedInput("sop-class", "the SOP class was not negotiated", mend="Propose it in a context")
            self._store.count_refusal(SOURCE, refusal)
            raise refusal
        if incoming.failure is not None:
            if isinstance(incoming.failure, RejectedInput):
                self._store.count_refusal(SOURCE, incoming.failure)
            raise incoming.failure
        assert incoming.incoming is not None  # without a failure there is a file
        acceptance = self._store.accept(
            incoming.incoming,
            received_at=received_at,
            claim=claim,
            data_set_sha256=incoming.data_set_sha256,
        )
        self._add(entry, acceptance)
