"""Associations for the occasional request to another node, by pynetdicom (PS3.8 section 7.1)."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom.config import IGNORE
from pydicom.config import settings as pydicom_settings
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import build_role

from appliance.config.settings import RemoteNode
from appliance.errors import DestinationUnreachable


class Requestor:
    """Makes associations with one node.

    Parameters
    ----------
    ae_title
        How the appliance calls itself.
    sop_class_uids
        What is offered, each in the library's usual transfer syntaxes.
    as_provider
        Whether the appliance is the SCP of these, and the other node their SCU (PS3.7 section D.3.3.4).
    """

    def __init__(
        self, node: RemoteNode, ae_title: str, sop_class_uids: Sequence[str], *, as_provider: bool = False
    ) -> None:
        # A switch of the whole library: what the peer answers is judged here, not warned about with its values.
        pydicom_settings.reading_validation_mode = IGNORE
        self._node = node
        self._entity = ApplicationEntity(ae_title)
        for name in ("acse", "dimse", "network", "connection"):
            setattr(self._entity, f"{name}_timeout", node.timeout_s)
        for sop_class_uid in sop_class_uids:
            self._entity.add_requested_context(sop_class_uid)
        self._roles = [build_role(sop_class_uid, scp_role=True) for sop_class_uid in sop_class_uids if as_provider]

    @contextmanager
    def association(self) -> Iterator[Association]:
        """An open association; released at the end of the block, or aborted when it raises.

        Raises
        ------
        DestinationUnreachable
            The node cannot be reached, rejects the association, or takes none of the SOP classes.
        """
        association = self._associate()
        if not association.is_established:
            raise self._unreachable(_refusal(association))
        if not association.accepted_contexts:
            association.abort()
            raise self._unreachable("none of the SOP classes is accepted")
        try:
            yield association
        except BaseException:
            association.abort()
            raise
        association.release()

    def _associate(self) -> Association:
        try:
            # The library takes a name without dots for an IPv6 address.
            found = socket.getaddrinfo(self._node.host, self._node.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise self._unreachable(f"{self._node.host} cannot be resolved") from error
        return self._entity.associate(
            str(found[0][4][0]),
            self._node.port,
            ae_title=self._node.ae_title,
            ext_neg=list(self._roles),
            evt_handlers=[(evt.EVT_CONN_OPEN, self._connected)],
        )

    def _connected(self, event: Any) -> None:
        """The library waits for ever for a peer that stops in the middle of a PDU, and for one that takes nothing."""
        event.assoc.dul.socket.socket.settimeout(self._node.timeout_s)

    def _unreachable(self, found: str) -> DestinationUnreachable:
        return DestinationUnreachable(
            f"no association with {self._node.ae_title} at {self._node.host} port {self._node.port}",
            found=found,
            mend="Check the node, its address in the settings, and that it knows this AE title",
        )


def _refusal(association: Association) -> str:
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        return f"rejected: {answer.reason_str}"
    return "the connection failed, or was ended without an answer"
