"""What the node offers besides Verification and Storage: one object for each further DIMSE service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pynetdicom.events import InterventionEvent

Handler = tuple[InterventionEvent, Callable[[Any], Any]]
"""An event of the library and what answers it, on the association's thread; see pynetdicom's ``evt``."""


class DimseService(Protocol):
    """A service as its provider (PS3.7 section 10): what is offered, and who answers.

    A data set of one of its messages is held in memory, up to the bound of ``association``, and two services must not
    answer the same event. What a handler raises is answered by the library's failure status.
    """

    @property
    def sop_class_uids(self) -> Sequence[str]:
        """Abstract syntaxes that are offered, in Explicit and Implicit VR Little Endian."""
        ...

    @property
    def handlers(self) -> Sequence[Handler]:
        """What answers the requests."""
        ...
