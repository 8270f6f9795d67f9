"""What reception keeps in memory does not grow with what it has received: counted to the byte, by Python's own tracer.

``scripts/bench memory`` shows the same of all roles by their resident memory, over thousands of studies.
"""

from __future__ import annotations

import gc
import itertools
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.raw_peer import RELEASE_RP, RELEASE_RQ, RawPeer, p_data, store_command
from tests.support.received_files import CT, data_set
from tests.support.reception import Reception, model
from tests.support.waiting import wait_for

_STUDIES = 25
_MOST_BYTES = 150
"""For each study: an entry of any list or dictionary that is never taken out again is more."""


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    reception = Reception(tmp_path / "state", models=[model()], settle_s=0.01)
    reception.assembler.start()
    yield reception
    reception.stop()
    assert not reception.fatal.is_set()


def test_an_association_for_each_study(reception: Reception) -> None:
    port, numbers = reception.start_node(), itertools.count()

    def traced_after_more() -> int:
        for number in itertools.islice(numbers, _STUDIES):
            send(port, number)
        wait_for(lambda: _complete(reception) == number + 1, 60, what="all series to be complete")
        wait_for(lambda: not [t for t in threading.enumerate() if "Acceptor" in t.name], what="ended threads")
        reception.store.confirm()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    traced_after_more()  # what is made once: caches, pools, labels of metrics
    tracemalloc.start()
    try:
        traced = [traced_after_more() for _ in range(5)]
    finally:
        tracemalloc.stop()
    # What is let go a moment later makes one round look worse and the next one better; what stays shows in each.
    grown = [later - earlier for earlier, later in itertools.pairwise(traced)]
    assert min(grown) < _STUDIES * _MOST_BYTES, f"{grown} bytes more after {_STUDIES} studies each"


def send(port: int, number: int) -> None:
    """A study of two images, as the release of an association that brought one is no sign that it is complete."""
    study, series, instance = (f"1.2.3.{place}.{number:06}" for place in range(3))
    with RawPeer(port) as peer:
        peer.associate()
        for sop in (f"{instance}.1", f"{instance}.2"):
            peer.send(p_data(store_command(CT, sop), command=True, last=True))
            peer.send(p_data(data_set(study=study, series=series, instance=sop), command=False, last=True))
            assert peer.read_status() == 0
        peer.send(RELEASE_RQ)
        assert peer.read()[0] == RELEASE_RP


def _complete(reception: Reception) -> int:
    return int(reception.rows("SELECT count(*) FROM series WHERE state = 'complete'")[0][0])
