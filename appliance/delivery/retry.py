"""When to try again: exponential back-off with jitter, and an end."""

from __future__ import annotations

import math

from appliance.config.settings import Retry


def wait_s(retry: Retry, failures: int, spread: float) -> float:
    """Return how long to wait after the last of ``failures`` failures in a row, in seconds.

    Parameters
    ----------
    failures
        At least 1.
    spread
        A random number from 0 to 1. The wait lies between 0.75 and 1 of the nominal one, so that appliances that
        lost the same PACS do not all come back to it in the same second.
    """
    if failures < 1:
        raise ValueError(f"failures must be at least 1, is {failures}")
    # In logarithms: after days of failures the power itself would overflow.
    growth = (failures - 1) * math.log(retry.factor)
    if growth >= math.log(retry.longest_s / retry.first_s):
        nominal = retry.longest_s
    else:
        nominal = retry.first_s * math.exp(growth)
    return nominal * (0.75 + 0.25 * spread)


def is_given_up(retry: Retry, created_at: float, now: float) -> bool:
    """Say whether a delivery that has not got through is to be failed; times in seconds since 1970."""
    return now - created_at >= retry.give_up_after_s
