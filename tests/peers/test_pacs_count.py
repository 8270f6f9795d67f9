"""Asking a PACS for the number of a series' instances: Orthanc's, and PACS that are wrong, slow, down or mad."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, StudyRootQueryRetrieveInformationModelFind

from appliance.config.settings import CountingPacs
from appliance.delivery.pacs_count import PacsCount
from tests.support.dicom_factory import Subject, ct_series, ct_voxels, write_datasets
from tests.support.peers import Orthanc, RawAcceptor, accept_association, needs_orthanc, receive_pdu
from tests.support.ports import free_port
from tests.support.reception import Reception, model
from tests.support.waiting import wait_for

Find = Callable[[Any], Iterator[tuple[int, Dataset | None]]]


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    reception = Reception(tmp_path / "state", models=[model()])
    reception.assembler.start()
    yield reception
    reception.stop()
    assert not reception.fatal.is_set()


@contextmanager
def asking(reception: Reception, port: int, *, ae_title: str = "PACS", timeout_s: float = 5.0) -> Iterator[PacsCount]:
    pacs = CountingPacs(ae_title=ae_title, host="localhost", port=port, timeout_s=timeout_s, ask_after_s=0.1)
    count = PacsCount(
        pacs,
        ae_title="APPLIANCE",
        journal=reception.journal,
        metrics=reception.metrics,
        run_folder=reception.layout.run,
        on_fatal=reception.fatal.set,
    )
    count.start()
    yield count
    count.stop()


@contextmanager
def pacs(answer: Find) -> Iterator[int]:
    """A PACS whose answers to C-FIND requests are those of ``answer``; gives its port."""
    entity = AE("PACS")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, answer)])
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        entity.shutdown()


def answers(*counts: object, uid: str = "", last: int = 0x0000) -> Find:
    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        for count in counts:
            answer = Dataset()
            answer.QueryRetrieveLevel = "SERIES"
            answer.SeriesInstanceUID = uid or event.identifier.SeriesInstanceUID
            answer.add_new("NumberOfSeriesRelatedInstances", "IS", count)
            yield 0xFF00, answer
        yield last, None

    return find


def datasets(count: int) -> list[Dataset]:
    return ct_series(ct_voxels(count, 16, 16), subject=Subject(seed="counted"))


def send(port: int, *images: Dataset) -> None:
    """Over one association, which is broken off: no end mark."""
    entity = AE("SCU")
    entity.add_requested_context(CTImageStorage)
    association = entity.associate("127.0.0.1", port, ae_title="APPLIANCE")
    for image in images:
        assert association.send_c_store(image).Status == 0
    association.abort()


def series(reception: Reception) -> list[tuple[object, ...]]:
    return reception.rows("SELECT state, sign, image_count, counted FROM series")


def asked(reception: Reception, outcome: str) -> int:
    return int(reception.metrics.pacs_counts.labels(outcome)._value.get())


class TestOrthanc:
    pytestmark = needs_orthanc

    def test_as_many_as_the_pacs_has(self, reception: Reception, tmp_path: Path) -> None:
        port = reception.start_node()
        images = datasets(4)
        with Orthanc(tmp_path / "orthanc", settings={"DicomAlwaysAllowFind": True}) as orthanc:
            orthanc.upload(write_datasets(images, tmp_path / "ct"))
            send(port, *images[:2])
            with asking(reception, orthanc.port, ae_title="ORTHANC"):
                wait_for(lambda: asked(reception, "more") >= 2)
                assert series(reception) == [("receiving", "stable age", 2, 4)]
                send(port, *images[2:])
                wait_for(lambda: series(reception)[0][:3] == ("complete", "pacs count", 4))
        assert reception.rows("SELECT model, state FROM job") == [("ct-model", "queued")]


def test_the_same_number_once_is_no_sign(reception: Reception) -> None:
    """The PACS still receives, and forwards what it gets: it has as many as are here after every image."""
    send(reception.start_node(), *datasets(2))
    number = iter(range(2, 100))

    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        return answers(next(number))(event)

    with pacs(find) as port, asking(reception, port):
        wait_for(lambda: asked(reception, "more") >= 2)
    assert asked(reception, "equal") == 1
    assert series(reception)[0][:3] == ("receiving", "stable age", 2)


def test_more_at_the_pacs_holds_a_release_back(reception: Reception, tmp_path: Path) -> None:
    node = reception.start_node()
    images = datasets(4)
    send(node, *images[:2])
    with pacs(answers(5)) as port, asking(reception, port):
        wait_for(lambda: asked(reception, "more") >= 1)
    [(series_id, settle_at)] = reception.rows("SELECT series_id, settle_at FROM series")
    reception.assembler.settle([series_id], settle_at - 20, "association released")
    assert reception.rows("SELECT settle_at, sign FROM series") == [(settle_at, "stable age")]
    [view] = reception.journal.overview.series(1)
    assert view.missing == 3


def test_fewer_at_the_pacs_says_nothing(reception: Reception) -> None:
    send(reception.start_node(), *datasets(2))
    with pacs(answers(1)) as port, asking(reception, port):
        wait_for(lambda: asked(reception, "fewer") >= 2)
    assert series(reception) == [("receiving", "stable age", 2, 0)]


def fail(event: Any) -> Iterator[tuple[int, Dataset | None]]:
    raise RuntimeError("a defect of the PACS")


def test_no_answer_that_can_be(reception: Reception) -> None:
    send(reception.start_node(), *datasets(2))
    # Nothing, refused, empty, words, below nothing, two numbers, another series, a defect (0xC311).
    wrong = [answers(), answers(last=0xA700), answers(None), answers("many"), answers(-2), answers(2, 3)]
    script = iter([*wrong, answers(2, uid="1.2.3"), fail])
    with pacs(lambda event: next(script, answers())(event)) as port, asking(reception, port):
        wait_for(lambda: asked(reception, "none") >= len(wrong) + 2)
    assert series(reception) == [("receiving", "stable age", 2, 0)]


def test_answers_without_end(reception: Reception) -> None:
    send(reception.start_node(), *datasets(2))
    with pacs(answers(*[2] * 500)) as port, asking(reception, port):
        wait_for(lambda: asked(reception, "unreachable") >= 1)
    assert series(reception) == [("receiving", "stable age", 2, 0)]


def hang(connection: socket.socket) -> None:
    accept_association(connection)
    while connection.recv(65536):
        pass


def stop_within_a_pdu(connection: socket.socket) -> None:
    accept_association(connection)
    receive_pdu(connection)
    connection.sendall(b"\x04\x00\x00\x00\x10\x00half")
    while connection.recv(65536):
        pass


def garbage(connection: socket.socket) -> None:
    accept_association(connection)
    receive_pdu(connection)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)
    while connection.recv(65536):
        pass


@pytest.mark.parametrize("behave", [hang, stop_within_a_pdu, garbage, lambda connection: None])
def test_a_pacs_that_is_slow_or_mad_delays_nothing(
    reception: Reception, behave: Callable[[socket.socket], None]
) -> None:
    node = reception.start_node()
    images = datasets(4)
    send(node, *images[:2])
    before = threading.active_count()
    with RawAcceptor(behave) as acceptor:
        with asking(reception, acceptor.port, timeout_s=0.5):
            wait_for(lambda: acceptor.connections > 0)
            send(node, *images[2:])  # taken meanwhile
            wait_for(lambda: asked(reception, "unreachable") >= 1)
        wait_for(lambda: threading.active_count() <= before + 2, what="the library's threads to end")
    assert series(reception) == [("receiving", "stable age", 4, 0)]


# The library leaves the socket of a refused connection to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_pacs_that_is_down_and_comes_back(reception: Reception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.delivery.pacs_count.wait_s", lambda *_: 0.1)
    send(reception.start_node(), *datasets(2))
    port = free_port()
    with asking(reception, port):
        wait_for(lambda: asked(reception, "unreachable") >= 2)
        entity = AE("PACS")
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_FIND, answers(2))])
        wait_for(lambda: series(reception)[0][:2] == ("complete", "pacs count"))
        entity.shutdown()
