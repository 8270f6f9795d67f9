"""A PACS that is away, or worse than away, for days: by the clock of the appliance, so that they pass in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.campaign import waiting_rows
from tests.chaos.images import Images
from tests.chaos.machine import Machine
from tests.chaos.preload import NO_COMPILER
from tests.chaos.proxy import Mode, Proxy
from tests.chaos.schedule import HOUR_S
from tests.chaos.senders import RawWay
from tests.support.peers import DcmtkStoreScp, needs_dcmtk
from tests.support.waiting import wait_for

pytestmark = [
    *needs_dcmtk,
    pytest.mark.slow,
    pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER)),
]

IMAGES = 4
DELIVERIES = IMAGES * 4
"""Each image and its three results."""


def test_a_pacs_that_flaps_for_days(tmp_path: Path) -> None:
    """Nothing is given up within the week that the settings allow, and all of it arrives, once, when it is back."""
    with DcmtkStoreScp(tmp_path / "pacs", "+uf", "--fork") as pacs:
        proxy = Proxy(pacs.port, "days")
        machine = Machine(tmp_path, proxy.port)
        try:
            proxy.become(Mode.REFUSE)
            machine.start()
            maker = Images()
            images = [maker.make("CR") for _ in range(IMAGES)]
            assert len(RawWay(machine.daemon.dicom_port, "days").send(images)) == IMAGES
            journal = machine.daemon.layout.journal
            wait_for(lambda: waiting_rows(journal, "job", "succeeded") == IMAGES, 60, what="all images to be judged")
            for hours in range(24, 7 * 24, 24):
                line = len(machine.log())
                machine.faults.clock(hours * HOUR_S)
                proxy.become((Mode.REFUSE, Mode.RESET, Mode.GARBAGE)[hours // 24 % 3])
                machine.daemon.wait_for_line("next try in", line)
            assert waiting_rows(journal, "delivery", "failed", "delivered") == 0
            proxy.become(Mode.PASS)
            wait_for(lambda: waiting_rows(journal, "delivery", "delivered") == DELIVERIES, 30, what="all to arrive")
            assert len(pacs.files()) == DELIVERIES
        finally:
            machine.stop()
            proxy.stop()
