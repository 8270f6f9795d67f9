"""Results and received images to a PACS by C-STORE (PS3.4 annex B)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO

from pydicom.filereader import read_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import encode

from appliance.config.settings import DicomDestination
from appliance.delivery.association import (
    AssociationAborted,
    AssociationRejected,
    AssociationReleased,
    StorageAssociation,
)
from appliance.delivery.base import Destination
from appliance.delivery.connection import Connection
from appliance.delivery.outgoing import Outgoing, malformed
from appliance.delivery.pdus import Offer
from appliance.errors import DeliveryRefused, DeliveryRetry, DestinationUnreachable

_LARGEST_REWRITTEN_BYTES = 512 * 1024 * 1024
"""It is in memory three times meanwhile; what goes out as it is never is."""

_MAX_CONTEXTS = 128  # context ids are odd and of one byte, PS3.8 section 9.3.2.2

# One can be rewritten as the other without touching what it says (PS3.5 annex A); a peer must take the second.
_CONVERTIBLE = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))


_ENDS = (AssociationAborted, AssociationReleased, ConnectionResetError, BrokenPipeError)


class _Outlived(DeliveryRetry):
    """The peer ended an association on which it had taken objects before."""


class Pacs(Destination):
    """Sends each object over an association that stays open for the next ones.

    Offered is only what has to be sent: the SOP classes of the objects announced, in the transfer syntax of their
    files, and in Implicit VR Little Endian, the default that every peer knows. An object goes out as the bytes of
    its file; only for a peer that does not take its transfer syntax is it rewritten.
    """

    def __init__(self, settings: DicomDestination, ae_title: str) -> None:
        self._settings = settings
        self._ae_title = ae_title
        # The contexts of the next association, what was needed last at the end.
        self._offers: dict[Offer, None] = {}
        self._association: StorageAssociation | None = None
        self._offered: frozenset[Offer] = frozenset()  # on the open association
        self._connection = Connection()
        self._is_cut = False

    def announce(self, objects: Sequence[Outgoing]) -> None:
        """Offer what these objects need when the next association is made."""
        for outgoing in objects:
            for offer in _offers(outgoing):
                self._offers.pop(offer, None)
                self._offers[offer] = None
        while len(self._offers) > _MAX_CONTEXTS:
            del self._offers[next(iter(self._offers))]

    def close(self) -> None:
        """Release the association."""
        if self._association is not None:
            self._association.release()
            self._association = None

    def cut(self) -> None:
        """Cut the connection."""
        self._is_cut = True
        self._connection.cut()

    def _send(self, outgoing: Outgoing) -> int:
        try:
            return self._try(outgoing)
        except _Outlived:
            # Some archives end an association after so many objects, or at any time. On a new one it is this object's
            # own affair if it fails.
            return self._try(outgoing)

    def _try(self, outgoing: Outgoing) -> int:
        file = outgoing.read()
        next(file)  # the head stays here; and whether the file is there is known before anything is opened for it
        association = self._associated_for(outgoing)
        offer = next((offer for offer in _offers(outgoing) if offer in association.accepted), None)
        if offer is None:
            raise self._no_context(outgoing, association)
        data_set: Iterator[bytes | memoryview] = file
        if offer.transfer_syntax_uid != outgoing.transfer_syntax_uid:
            if outgoing.bytes > _LARGEST_REWRITTEN_BYTES:
                raise self._too_large(outgoing, offer)
            data_set = _converted(file, outgoing, offer.transfer_syntax_uid)
        try:
            return association.store(
                association.accepted[offer], outgoing.sop_class_uid, outgoing.sop_instance_uid, data_set
            )
        except BaseException as error:
            association.drop()
            self._association = None
            if isinstance(error, OSError):
                ended_by_peer = isinstance(error, _ENDS) and not self._is_cut
                kind = _Outlived if ended_by_peer and association.answered else DeliveryRetry
                raise kind(
                    f"the destination {self._settings.name} did not take the object",
                    found=_words(error),
                    expected=f"an answer within {self._settings.timeout_s:g} s",
                    mend="Look at its log; it is tried again by itself",
                ) from error
            raise

    def _associated_for(self, outgoing: Outgoing) -> StorageAssociation:
        """The open association if it serves the object, else a new one."""
        self.announce([outgoing])
        if self._association is not None:
            if self._association.is_usable() and set(_offers(outgoing)) <= self._offered:
                return self._association
            self.close()
        self._association = self._associate()
        self._offered = frozenset(self._offers)
        return self._association

    def _associate(self) -> StorageAssociation:
        settings = self._settings
        self._connection = Connection()
        if self._is_cut:
            self._connection.cut()
        try:
            self._connection.connect(settings.host, settings.port, settings.timeout_s)
            return StorageAssociation(
                self._connection,
                calling_ae_title=self._ae_title,
                called_ae_title=settings.ae_title,
                offers=list(self._offers),
                timeout_s=settings.timeout_s,
            )
        except AssociationRejected as error:
            raise DestinationUnreachable(
                f"the destination {settings.name} rejected the association",
                found=str(error),
                mend=f"Make {settings.ae_title!r} know {self._ae_title!r}, or correct ae_title in the settings",
            ) from error
        except OSError as error:
            raise DestinationUnreachable(
                f"no association with the destination {settings.name} ({settings.host} port {settings.port})",
                found=_words(error),
                mend="Check that it runs, its address and the network; it is tried again by itself",
            ) from error

    def _too_large(self, outgoing: Outgoing, offer: Offer) -> DeliveryRefused:
        return DeliveryRefused(
            f"the object is too large to be rewritten in {UID(offer.transfer_syntax_uid).name}",
            found=f"{outgoing.bytes >> 20} MiB",
            expected=f"{_LARGEST_REWRITTEN_BYTES >> 20} MiB at most",
            mend=f"Let the destination {self._settings.name} accept {UID(outgoing.transfer_syntax_uid).name}; then: "
            "appliance requeue --deliveries",
        )

    def _no_context(self, outgoing: Outgoing, association: StorageAssociation) -> DeliveryRefused:
        syntaxes = " or ".join(UID(offer.transfer_syntax_uid).name for offer in _offers(outgoing))
        taken = sorted({UID(offer.sop_class_uid).name for offer in association.accepted})
        return DeliveryRefused(
            f"the destination {self._settings.name} does not take {UID(outgoing.sop_class_uid).name} in {syntaxes}",
            found=f"it takes {', '.join(taken)} only" if taken else "it takes nothing that was offered",
            mend="Let it accept this, or ask for less in the settings "
            f"({'forward' if outgoing.kind == 'image' else 'results'}); then: appliance requeue --deliveries",
        )


def _offers(outgoing: Outgoing) -> tuple[Offer, ...]:
    """What an object may be sent as, best first."""
    syntaxes = [outgoing.transfer_syntax_uid]
    if outgoing.transfer_syntax_uid in _CONVERTIBLE:
        syntaxes += [syntax for syntax in _CONVERTIBLE if syntax != outgoing.transfer_syntax_uid]
    return tuple(Offer(outgoing.sop_class_uid, syntax) for syntax in syntaxes)


def _converted(data_set: Iterator[memoryview], outgoing: Outgoing, transfer_syntax_uid: str) -> Iterator[bytes]:
    """The data set in another of the convertible transfer syntaxes; raises as ``Outgoing.read`` does."""
    content = BytesIO(b"".join(data_set))
    try:
        implicit = UID(outgoing.transfer_syntax_uid).is_implicit_VR
        dataset = read_dataset(content, implicit, is_little_endian=True)
        encoded = encode(dataset, UID(transfer_syntax_uid).is_implicit_VR, True)
    except Exception as error:  # whatever a malformed file raises in the library's reader
        raise malformed(error) from error
    if encoded is None:
        raise malformed()
    yield encoded


def _words(error: OSError) -> str:
    """What the network says, as people read it."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    words = error.strerror or str(error) or type(error).__name__
    return words[:1].lower() + words[1:]
