"""How long the disk lasts."""

from __future__ import annotations

import math
import time

from appliance.journal.journal import Journal
from appliance.spool.spool import Spool

_DAY_S = 86400.0
_LOOK_BACK_DAYS = 7.0


def room_days(journal: Journal, spool: Spool, target_free_bytes: int) -> float:
    """Days until the disk comes to the target if as much arrives as in the last week; infinite when nothing did.

    A state folder that is younger than a week is judged by its own days, the first one counted whole.
    """
    now = time.time()
    oldest = journal.retention.oldest_received_at()
    days = _LOOK_BACK_DAYS if oldest is None else min(_LOOK_BACK_DAYS, max(1.0, (now - oldest) / _DAY_S))
    taken = journal.retention.taken_bytes(now - days * _DAY_S)
    if not taken:
        return math.inf
    return max(0.0, (spool.free_bytes() - target_free_bytes) * days / taken)
