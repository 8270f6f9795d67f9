"""Workers are spread over the GPUs, and those on one share its memory."""

from __future__ import annotations

import pytest

from appliance.backends.gpu_share import WHOLE_GPU, GpuShare, HeldMemory


@pytest.mark.parametrize(
    ("share", "gpus", "ordinal", "limit"),
    [
        (WHOLE_GPU, 1, 0, None),
        (GpuShare(0, 2), 1, 0, 500),
        (GpuShare(1, 2), 2, 1, None),
        (GpuShare(0, 3), 2, 0, 500),
        (GpuShare(1, 3), 2, 1, None),
        (GpuShare(2, 3), 2, 0, 500),
        (GpuShare(0, 4, 100), 1, 0, 100),
    ],
)
def test_shares(share: GpuShare, gpus: int, ordinal: int, limit: int | None) -> None:
    assert share.ordinal(gpus) == ordinal
    assert share.limit_bytes(gpus, 1000) == limit


def test_what_is_held_leaves_less_room() -> None:
    held = HeldMemory()
    held.add(300)
    assert (held.room(None), held.room(1000), held.room(200)) == (None, 700, 0)
    held.add(-300)
    assert held.room(200) == 200
