"""Back-off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config.settings import Retry
from appliance.delivery.retry import is_given_up, wait_s

RETRY = Retry(first_s=2, factor=2, longest_s=300, give_up_after_s=3600)


@pytest.mark.parametrize(("failures", "expected_s"), [(1, 2), (2, 4), (3, 8), (8, 256), (9, 300), (10, 300)])
def test_each_wait_is_longer_up_to_the_longest(failures: int, expected_s: float) -> None:
    assert wait_s(RETRY, failures, 1.0) == pytest.approx(expected_s)
    assert wait_s(RETRY, failures, 0.0) == pytest.approx(0.75 * expected_s)


@given(
    first_s=st.floats(0.001, 1000),
    factor=st.floats(1, 100),
    longest_s=st.floats(0.001, 100000),
    failures=st.integers(1, 10**9),
    spread=st.floats(0, 1),
)
def test_never_longer_than_the_longest_and_never_an_error(
    first_s: float, factor: float, longest_s: float, failures: int, spread: float
) -> None:
    retry = Retry(first_s=first_s, factor=factor, longest_s=longest_s)
    assert 0 < wait_s(retry, failures, spread) <= longest_s * (1 + 1e-9)


def test_no_failure_no_wait() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        wait_s(RETRY, 0, 0.5)


def test_given_up_after_the_time_that_is_set() -> None:
    assert not is_given_up(RETRY, 1000, 1000 + 3599)
    assert is_given_up(RETRY, 1000, 1000 + 3600)
