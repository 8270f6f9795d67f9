"""What the status of a C-STORE answer means for a delivery (PS3.4 section B.2.3, PS3.7 annex C)."""

from __future__ import annotations

from enum import Enum

from appliance.errors import DeliveryRefused, DeliveryRetry

SUCCESS = 0x0000
DUPLICATE_SOP_INSTANCE = 0x0111
"""The destination has it already: an earlier attempt got through although its answer was lost."""

_PROCESSING_FAILURE = 0x0110
"""Archives answer it for troubles of their own, such as a database that is away for a moment."""

# PS3.7 annex C: warnings of any service.
_GENERAL_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})

_MEANINGS = {
    _PROCESSING_FAILURE: "processing failure",
    0x0117: "invalid SOP instance",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
}


class Verdict(Enum):
    """Of a status."""

    DELIVERED = "delivered"
    RETRY = "retry"
    REFUSED = "refused"


def verdict(status: int) -> Verdict:
    """Say what a status means; one that the Standard does not list is a refusal, so that somebody looks at it."""
    if status in (SUCCESS, DUPLICATE_SOP_INSTANCE) or is_warning(status):
        return Verdict.DELIVERED
    if status & 0xFF00 == 0xA700 or status == _PROCESSING_FAILURE:
        return Verdict.RETRY
    return Verdict.REFUSED


def is_warning(status: int) -> bool:
    """Say whether the object was stored with a remark: coerced or discarded elements and the like."""
    return status & 0xF000 == 0xB000 or status in _GENERAL_WARNINGS


def meaning(status: int) -> str:
    """The status as people read it, for example ``0xA700 (out of resources)``."""
    if status & 0xFF00 == 0xA700:
        text = "out of resources"
    elif status & 0xFF00 == 0xA900:
        text = "data set does not match SOP class"
    elif status & 0xF000 == 0xC000:
        text = "cannot understand"
    else:
        text = _MEANINGS.get(status, "not in the Standard's list")
    return f"0x{status:04X} ({text})"


def require_delivered(status: int) -> None:
    """Pass a status that means delivered.

    Raises
    ------
    DeliveryRetry, DeliveryRefused
        With the status in the message and in ``status``.
    """
    match verdict(status):
        case Verdict.RETRY:
            raise DeliveryRetry(
                f"the destination could not store the object: {meaning(status)}",
                status=status,
                mend="Look at its disk and log; it is tried again by itself",
            )
        case Verdict.REFUSED:
            raise DeliveryRefused(
                f"the destination refused the object: {meaning(status)}",
                status=status,
                mend="Look at its log for the reason; after the cause is mended: appliance requeue",
            )
        case Verdict.DELIVERED:
            pass
