"""A PACS that goes wrong at each point in each manner: nothing is lost, doubled or stuck."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bad_pacs import (
    ANSWERED,
    ANSWERING,
    CLOSE,
    MANNERS,
    OTHER_MESSAGE,
    POINTS,
    RELEASING,
    RESET,
    STORED,
    BadPacs,
    Fault,
)
from tests.support.outbox import Outbox, pacs
from tests.support.result_files import data_set_bytes, result_file
from tests.support.waiting import wait_for


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(tmp_path / "state")
    yield outbox
    outbox.close()


def put(outbox: Outbox, port: int) -> dict[str, bytes]:
    """A large object between two small ones: UID → data set."""
    folder = outbox.spool.results / "1"
    files = [result_file(folder, kind, kind, pixels=400 if kind == "sc" else 16) for kind in ("sr", "sc", "seg")]
    outbox.put_files("1", [pacs(port)], files)
    return {file.sop_instance_uid: data_set_bytes(file.path) for file in files}


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("point", POINTS)
def test_it_goes_wrong_twice_and_then_is_well(outbox: Outbox, point: str, manner: str) -> None:
    faults = [Fault(point, manner), Fault(point, manner, after=1)]
    with BadPacs(faults) as peer:
        objects = put(outbox, peer.port)
        outbox.sender(pacs(peer.port, timeout_s=0.3))
        wait_for(outbox.are_delivered, what="the delivery")
        assert dict(peer.received) == objects
        again = Counter(peer.uids()).total() - len(objects)
        # What was stored and not answered has to be sent again: nobody could know. Nothing else has.
        assert again == (2 if point in (STORED, ANSWERING) else 0)
        if point not in (ANSWERED, RELEASING):
            assert outbox.count("postponed") >= 1


def test_an_answer_to_another_message_is_none(outbox: Outbox) -> None:
    with BadPacs([Fault(ANSWERING, OTHER_MESSAGE, after=1)]) as peer:
        objects = put(outbox, peer.port)
        outbox.sender(pacs(peer.port))
        wait_for(outbox.are_delivered, what="the delivery")
        assert dict(peer.received) == objects
    assert [row["attempts"] for row in outbox.rows()] == [1, 2, 1]


@pytest.mark.parametrize("manner", [CLOSE, RESET])
def test_one_that_ends_each_association_after_an_object_is_no_slower_for_it(outbox: Outbox, manner: str) -> None:
    with BadPacs([Fault(ANSWERED, manner)] * 20) as peer:
        for seed in range(5):
            outbox.put(str(seed), [pacs(peer.port)])
        outbox.sender(pacs(peer.port))
        wait_for(outbox.are_delivered, what="the delivery")
        assert len(peer.received) == 15
        assert outbox.count("postponed") == 0, "no rest between them"
        assert {row["attempts"] for row in outbox.rows()} == {1}
