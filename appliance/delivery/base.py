"""What every kind of destination is to the sender."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from appliance.delivery.outgoing import Outgoing
from appliance.delivery.status import require_delivered


class Destination(ABC):
    """Somewhere that objects are delivered to, one after the other.

    What is opened to send an object (an association, say) stays open for the next ones until ``close``. The thread
    that sends owns the destination; only ``cut`` may be called from another.
    """

    def send(self, outgoing: Outgoing) -> int | None:
        """Deliver one object. Sending the same object again is harmless: it ends up there once.

        Returns
        -------
        int or None
            The status of the C-STORE answer, which may be a warning (PS3.4 section B.2.3); ``None`` where the
            destination answers with none. Either way the destination has the object.

        Raises
        ------
        DestinationUnreachable
            The destination could not be reached: the other objects would fare no better.
        DeliveryRetry
            This object did not get through now but may later.
        DeliveryRefused
            It never will as it is, or its file is not the committed one.
        """
        status = self._send(outgoing)
        if status is not None:
            require_delivered(status)
        return status

    def announce(self, objects: Sequence[Outgoing]) -> None:  # noqa: B027 - only some destinations negotiate
        """Tell what will be sent next, so that it can be negotiated in one go."""

    @abstractmethod
    def _send(self, outgoing: Outgoing) -> int | None:
        """Deliver one object and return the destination's status, unjudged. Raises as ``send`` does.

        What ``Outgoing.read`` raises in the middle must leave nothing of the object at the destination.
        """

    @abstractmethod
    def close(self) -> None:
        """End in good order what is open; the next ``send`` opens it again. Never raises, takes 2 s at most."""

    @abstractmethod
    def cut(self) -> None:
        """From another thread: make a ``send`` that is under way, and all later ones, raise soon."""
