"""The DICOM node that receives: Verification and Storage SCP (PS3.4 annex A and B) on pynetdicom."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pydicom.config import IGNORE
from pydicom.config import settings as pydicom_settings
from pydicom.dataset import Dataset
from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association

from appliance.config.settings import DicomNode
from appliance.errors import ConfigurationError
from appliance.intake.admission import Refusal, refusal_of, to_make_room, too_many
from appliance.intake.assembler import Assembler
from appliance.intake.association import OpenAssociation
from appliance.intake.association_server import AssociationServer
from appliance.intake.contexts import SupportedContexts
from appliance.intake.dimse_service import DimseService
from appliance.intake.incoming_file import IncomingFile
from appliance.intake.store import Acceptance, Claim, InstanceStore
from appliance.intake.store_answers import SUCCESS, StoreAnswers
from appliance.intake.store_messages import StoreRequest
from appliance.observability.guarded_thread import GuardedThread
from appliance.observability.metrics import Metrics

_log = logging.getLogger(__name__)

_POLL_S = 0.1
"""How soon ``stop`` is noticed."""


class StorageScp:
    """The node: takes associations from ``start`` to ``stop``.

    Parameters
    ----------
    settle_s
        How long after the release of an association its series may be called complete.
    sop_class_uids
        Storage SOP classes that models want, besides the usual ones.
    services
        What is offered besides Verification and Storage.
    on_fatal
        Called when the node cannot go on and the role has to end.
    """

    def __init__(
        self,
        node: DicomNode,
        store: InstanceStore,
        assembler: Assembler,
        metrics: Metrics,
        *,
        settle_s: float,
        sop_class_uids: frozenset[str],
        services: Sequence[DimseService] = (),
        on_fatal: Callable[[], None],
    ) -> None:
        self._node = node
        self._store = store
        self._assembler = assembler
        self._metrics = metrics
        self._settle_s = settle_s
        self._services = services
        self._service_uids = frozenset(uid for service in services for uid in service.sop_class_uids)
        self._contexts = SupportedContexts(sop_class_uids, self._service_uids)
        self._answers = StoreAnswers(store, metrics, self._service_uids, self._add, on_fatal=on_fatal)
        self._on_fatal = on_fatal
        self._lock = threading.Lock()
        self._open: dict[Association, OpenAssociation] = {}
        # There is always one that can make room, or be rejected in good order.
        self._most_connections = max(node.max_connections, node.max_associations + 1)
        self._server: AssociationServer | None = None
        self._thread: GuardedThread | None = None

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""
        if self._server is None:
            raise RuntimeError("the node has not been started")
        return int(self._server.server_address[1])

    def want(self, sop_class_uids: frozenset[str]) -> None:
        """Offer these storage SOP classes, besides the usual ones, to associations from now on."""
        self._contexts = SupportedContexts(sop_class_uids, self._service_uids)

    def start(self) -> None:
        """Listen, and serve in threads of the node's own.

        Raises
        ------
        ConfigurationError
            The address cannot be listened on.
        """
        # A switch of the whole library, read when a server is made: its default handlers format every PDU and
        # message for a log that is never shown, with the peer's data in it.
        _config.LOG_HANDLER_LEVEL = "none"
        # Another one: command sets are read leniently and without warnings, which quote the peer's UIDs. What matters
        # of them is checked in _take.
        pydicom_settings.reading_validation_mode = IGNORE
        entity = ApplicationEntity(self._node.ae_title)
        entity.maximum_pdu_size = self._node.max_pdu_bytes
        entity.network_timeout = self._node.network_timeout_s
        entity.acse_timeout = self._node.negotiation_timeout_s
        # Checked in _requested, which counts accepted associations only: idle connections must not lock peers out.
        entity.maximum_associations = 2 * self._most_connections + 1
        try:
            server = entity.make_server(
                (self._node.host, self._node.port),
                contexts=[self._contexts.verification],
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._connected),
                    (evt.EVT_CONN_CLOSE, self._closed),
                    (evt.EVT_REQUESTED, self._requested),
                    (evt.EVT_ESTABLISHED, self._established),
                    (evt.EVT_RELEASED, self._released),
                    (evt.EVT_C_ECHO, lambda event: SUCCESS),
                    (evt.EVT_C_STORE, self._stored),
                    *(handler for service in self._services for handler in service.handlers),
                ],
                server_class=AssociationServer,
            )
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {self._node.host} port {self._node.port}",
                found=error.strerror,
                mend="Correct dicom.host or dicom.port, or stop what listens there",
            ) from error
        assert isinstance(server, AssociationServer)
        server.admits = self._admits
        self._server = server
        self._thread = GuardedThread("storage-scp", partial(server.serve_forever, _POLL_S), self._on_fatal)
        self._thread.start()
        _log.info("listening as %s on %s port %d", self._node.ae_title, self._node.host, self.port)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Take no more associations and close the open ones: what was not acknowledged will be sent again."""
        if self._server is None or self._thread is None:
            return
        deadline = time.monotonic() + timeout_s
        self._server.shutdown()
        self._thread.end(timeout_s)
        with self._lock:
            opened = list(self._open.values())
        for entry in opened:
            entry.disconnect()
        for entry in opened:
            entry.association.join(max(0.0, deadline - time.monotonic()))

    # Handlers. The library swallows what notification handlers raise, with its logs off: so each of these that can
    # fail does so to the safe side. Until _requested has run, an association has no context but Verification.

    def _admits(self) -> bool:
        """Whether one connection more is let in: when there are too many, one that only waits has to go for it."""
        with self._lock:
            if len(self._open) >= 2 * self._most_connections:
                return False  # those that were told to go have not gone yet
            staying = [entry for entry in self._open.values() if not entry.leaving]
            waiting = [entry for entry in staying if not entry.established]
            chosen = to_make_room([(entry.association.requestor.address, entry.started) for entry in waiting])
        if len(staying) < self._most_connections:
            return True
        if chosen is None:
            return False
        waiting[chosen].disconnect()
        return True

    def _connected(self, event: Any) -> None:
        """EVT_CONN_OPEN, before the association's threads start."""
        association: Association = event.assoc
        entry = OpenAssociation(association, self._store, self._node, self._taken)
        with self._lock:
            self._open[association] = entry
        serve = association.run

        def run() -> None:
            try:
                serve()
            except Exception as error:  # noqa: BLE001 - top of a thread: whatever a hostile request raises in the library
                _log.warning(
                    "an association from %s cannot be served (%s)", association.requestor.address, type(error).__name__
                )
                entry.disconnect()
                association.kill()  # returns when the library's reader thread, which would stay, has ended
                entry.close()  # what that thread would have done
            finally:
                self._ended_guarded(entry)

        # However an association ends, by release, abort, time-out or an error in the library, its thread ends.
        association.run = run  # type: ignore[method-assign]

    def _closed(self, event: Any) -> None:
        """EVT_CONN_CLOSE: the peer has gone."""
        with self._lock:
            entry = self._open.get(event.assoc)
        if entry is not None:
            entry.connection_closed()

    def _requested(self, event: Any) -> None:
        """EVT_REQUESTED, before negotiation: refuse the association, or give it the contexts that it asks for."""
        association: Association = event.assoc
        request = association.requestor.primitive
        assert request is not None  # the event is triggered by its arrival
        address = association.requestor.address
        refusal = refusal_of(self._node, str(request.calling_ae_title), str(request.called_ae_title), address)
        refusal = refusal or self._count_in(association)
        if refusal is not None:
            code, why = refusal
            _log.warning("refused an association from %s: %s", address, why)
            self._metrics.associations.labels("rejected").inc()
            association.acse.send_reject(*code)
            association.kill()  # returns when the answer is out; without it the library's reader thread would stay
            return
        association.acceptor.supported_contexts = self._contexts.among(
            str(context.abstract_syntax) for context in request.presentation_context_definition_list
        )

    def _count_in(self, association: Association) -> Refusal | None:
        with self._lock:
            open_from = [entry.association.requestor.address for entry in self._open.values() if entry.established]
            refusal = too_many(self._node, open_from, association.requestor.address)
            self._open[association].established = refusal is None
        return refusal

    def _established(self, event: Any) -> None:
        self._metrics.associations.labels("accepted").inc()
        self._show_open()

    def _released(self, event: Any) -> None:
        with self._lock:
            self._open[event.assoc].released = True

    def _taken(
        self, entry: OpenAssociation, context_id: int, request: StoreRequest, incoming: IncomingFile, received_at: float
    ) -> tuple[int, str]:
        """A data set has come in the fast lane."""
        context = entry.context(context_id)
        assert context is not None  # without one there is no file
        claim = Claim(request.sop_class_uid, request.sop_instance_uid, entry.association.requestor.ae_title)
        return self._answers.answer(entry, incoming, claim, str(context.abstract_syntax), received_at)

    def _stored(self, event: Any) -> Dataset:
        """EVT_C_STORE, on the association's thread: a data set that the fast lane left to the library."""
        received_at = time.time()
        request = event.request
        incoming = getattr(request, "_dataset_file", None)
        with self._lock:
            entry = self._open[event.assoc]
        sender = entry.association.requestor.ae_title
        claim = Claim(str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), sender)
        status, comment = self._answers.answer(entry, incoming, claim, str(event.context.abstract_syntax), received_at)
        answer = Dataset()
        answer.Status = status
        if comment:
            answer.ErrorComment = comment
        return answer

    def _add(self, entry: OpenAssociation, acceptance: Acceptance) -> None:
        with self._lock:  # the end of another association looks at what this one has brought
            entry.add(acceptance)

    def _ended_guarded(self, entry: OpenAssociation) -> None:
        try:
            self._ended(entry)
        except Exception:  # noqa: BLE001 - end of a thread: without the mark the stable age completes the series
            _log.exception("an association ended, but what it brought could not be marked as whole")

    def _ended(self, entry: OpenAssociation) -> None:
        """The association's thread is about to end, one way or another."""
        entry.end()
        with self._lock:
            del self._open[entry.association]
            others = [other.series for other in self._open.values()]
            series_ids = entry.series.whole(others) if entry.released else []
        if not entry.established:
            return
        self._show_open()
        self._metrics.associations.labels("released" if entry.released else "aborted").inc()
        if series_ids:
            self._assembler.settle(series_ids, time.time() + self._settle_s, "association released")
        _log.log(
            logging.INFO if entry.released else logging.WARNING,
            "association from %r at %s %s after %.1f s: %s in %d series",
            entry.association.requestor.ae_title,
            entry.association.requestor.address,
            "released" if entry.released else "broken off",
            time.monotonic() - entry.started,
            ", ".join(f"{count} {outcome}" for outcome, count in sorted(entry.outcomes.items())) or "no instances",
            len(entry.series),
        )

    def _show_open(self) -> None:
        with self._lock:
            self._metrics.open_associations.set(sum(entry.established for entry in self._open.values()))
