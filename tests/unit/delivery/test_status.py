"""What statuses mean."""

from __future__ import annotations

import pytest

from appliance.delivery.status import Verdict, meaning, require_delivered, verdict
from appliance.errors import DeliveryRefused, DeliveryRetry


@pytest.mark.parametrize("status", [0x0000, 0x0111, 0xB000, 0xB006, 0xB007, 0xBFFF, 0x0001, 0x0107, 0x0116])
def test_delivered(status: int) -> None:
    assert verdict(status) is Verdict.DELIVERED
    require_delivered(status)


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0xA7FF, 0x0110])
def test_retry(status: int) -> None:
    with pytest.raises(DeliveryRetry) as caught:
        require_delivered(status)
    assert caught.value.status == status
    assert f"0x{status:04X}" in str(caught.value)


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xCFFF, 0x0122, 0x0124, 0x0117, 0xFE00, 0xA800, 0x9999])
def test_refused(status: int) -> None:
    with pytest.raises(DeliveryRefused, match="requeue") as caught:
        require_delivered(status)
    assert caught.value.status == status


def test_every_status_has_a_verdict_and_words() -> None:
    for status in range(0x10000):
        assert verdict(status) in Verdict
        assert meaning(status).startswith(f"0x{status:04X} (")
