"""Who may associate with the node: called AE, calling AE and its address are checked (PS3.8 section 9.3.4)."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Final

from appliance.config.settings import DicomNode, Peer

_log = logging.getLogger(__name__)

Refusal = tuple[tuple[int, int, int], str]
"""Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21), and the reason in words."""

_CALLING_AE_NOT_RECOGNISED: Final = (1, 1, 3)
_CALLED_AE_NOT_RECOGNISED: Final = (1, 1, 7)
_LOCAL_LIMIT_EXCEEDED: Final = (2, 3, 2)


def refusal_of(node: DicomNode, calling_ae_title: str, called_ae_title: str, address: str | None) -> Refusal | None:
    """Say why a peer may not associate; ``None``: it may. Looks up names that ``dicom.peers`` has."""
    if called_ae_title.strip() != node.ae_title.strip():
        return _CALLED_AE_NOT_RECOGNISED, f"it calls {called_ae_title!r}, this node is {node.ae_title!r}"
    if node.peers:
        peers = [peer for peer in node.peers if peer.ae_title.strip() == calling_ae_title.strip()]
        if not peers:
            return _CALLING_AE_NOT_RECOGNISED, f"AE title {calling_ae_title!r} is not among dicom.peers"
        if not any(_comes_from(peer, address) for peer in peers):
            return _CALLING_AE_NOT_RECOGNISED, f"{calling_ae_title!r} may not come from this address (dicom.peers)"
    return None


def too_many(node: DicomNode, open_from: Sequence[str | None], address: str | None) -> Refusal | None:
    """The refusal of one association more from ``address`` beside those that are open from these; ``None``: it may."""
    if len(open_from) >= node.max_associations:
        return _LOCAL_LIMIT_EXCEEDED, f"{node.max_associations} associations are open already (dicom.max_associations)"
    if open_from.count(address) >= node.max_associations_per_peer:
        return (
            _LOCAL_LIMIT_EXCEEDED,
            f"{node.max_associations_per_peer} are open from there already (dicom.max_associations_per_peer)",
        )
    return None


def to_make_room(waiting: Sequence[tuple[str | None, float]]) -> int | None:
    """Choose which connection has to go when there are too many: of those that have not associated yet.

    Parameters
    ----------
    waiting
        Their addresses, and when each began, in seconds.

    Returns
    -------
    Index of the longest-waiting one of the address that has most of them: who opens one is not the one to suffer.
    """
    if not waiting:
        return None
    counts = Counter(address for address, _ in waiting)
    return max(range(len(waiting)), key=lambda index: (counts[waiting[index][0]], -waiting[index][1]))


def _comes_from(peer: Peer, address: str | None) -> bool:
    """Say whether a peer may have this address; the host of a peer may be a name."""
    if peer.host is None or peer.host == address:
        return True
    try:
        found = socket.getaddrinfo(peer.host, None, type=socket.SOCK_STREAM)
    except OSError:
        _log.warning("dicom.peers: the host of %s cannot be resolved", peer.ae_title)
        return False
    return any(entry[4][0] == address for entry in found)
