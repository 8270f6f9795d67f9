"""The node against real peers: dcmtk's, pynetdicom's, and one made of raw bytes that misbehaves."""

from __future__ import annotations

import errno
import gc
import os
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless
from pynetdicom import AE, build_context
from pynetdicom.sop_class import CTImageStorage, PatientRootQueryRetrieveInformationModelFind, Verification

from appliance.config.settings import Peer
from appliance.domain.states import Scope
from appliance.spool import spool as spool_module
from tests.support.dicom_factory import (
    Subject,
    ct_series,
    ct_voxels,
    enhanced_mr,
    mr_voxels,
    write_datasets,
)
from tests.support.raw_peer import ABORT, ASSOCIATE_AC, ASSOCIATE_RJ, RawPeer, associate_request, p_data, store_command
from tests.support.received_files import CT, INSTANCE, MR, SERIES, STUDY, data_set
from tests.support.reception import Reception, model
from tests.support.waiting import wait_for

dcmtk = [
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("storescu") is None, reason="dcmtk is not installed: apt install dcmtk"),
]


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    reception = Reception(tmp_path / "state", models=[model(), model("mr-model", modality="MR", sop_class=MR)])
    reception.assembler.start()
    yield reception
    reception.stop()
    assert not reception.fatal.is_set()
    assert reception.incoming() == [], "every association leaves incoming empty"


def storescu(port: int, *paths: Path, options: tuple[str, ...] = (), called: str = "APPLIANCE") -> int:
    """Send files with dcmtk; return its exit code. TCP_NODELAY: see shared figures, 40 ms per image without."""
    command = ["storescu", "-aec", called, *options, "+sd", "127.0.0.1", str(port), *map(str, paths)]
    return subprocess.run(command, env={**os.environ, "TCP_NODELAY": "1"}, capture_output=True, timeout=60).returncode


def associate(port: int, *, calling: str = "SCU", called: str = "APPLIANCE", contexts=None):
    entity = AE(calling)
    entity.requested_contexts = contexts or [build_context(CTImageStorage), build_context(Verification)]
    return entity.associate("127.0.0.1", port, ae_title=called)


def ct(number: int = 1, series: int = 1, subject: str = "1") -> Dataset:
    dataset = ct_series(ct_voxels(1, 16, 16), subject=Subject(seed=subject), series=series)[0]
    dataset.SOPInstanceUID = Subject(seed=subject).uid(series, "image", number)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def completed(reception: Reception) -> list[tuple[str, int]]:
    return reception.rows("SELECT sign, image_count FROM series WHERE state = 'complete' ORDER BY series_id")


# -- Real senders


class TestDcmtk:
    pytestmark = dcmtk

    def test_echo(self, reception: Reception) -> None:
        port = reception.start_node()
        assert subprocess.run(["echoscu", "-aec", "APPLIANCE", "127.0.0.1", str(port)]).returncode == 0

    def test_series(self, reception: Reception, tmp_path: Path) -> None:
        port = reception.start_node()
        datasets = ct_series(ct_voxels(12, 32, 32))
        write_datasets(datasets, tmp_path / "ct")
        assert storescu(port, tmp_path / "ct") == 0
        wait_for(lambda: completed(reception) == [("association released", 12)])
        assert reception.rows("SELECT model, state FROM job") == [("ct-model", "queued")]
        assert dict(reception.rows("SELECT model, refusal FROM assessment")) == {
            "ct-model": None,
            "mr-model": "Modality is CT, wants MR",
        }
        stored = [dcmread(reception.spool.absolute(path)) for (path,) in reception.rows("SELECT path FROM instance")]
        assert {found.SOPInstanceUID: found.PixelData for found in stored} == {
            sent.SOPInstanceUID: sent.PixelData for sent in datasets
        }

    def test_again_is_accepted_once(self, reception: Reception, tmp_path: Path) -> None:
        port = reception.start_node()
        write_datasets(ct_series(ct_voxels(3, 16, 16)), tmp_path / "ct")
        for _ in range(2):
            assert storescu(port, tmp_path / "ct") == 0
        assert (reception.count("stored"), reception.count("duplicate")) == (3, 3)

    @pytest.mark.parametrize("option", ["-xi", "-xe", "-xb", "-xd", "-R"])
    def test_transfer_syntaxes_of_dcmtk(self, reception: Reception, tmp_path: Path, option: str) -> None:
        port = reception.start_node()
        write_datasets(ct_series(ct_voxels(2, 16, 16)), tmp_path / "ct")
        assert storescu(port, tmp_path / "ct", options=(option,)) == 0
        assert reception.count("stored") == 2

    def test_enhanced_multi_frame_is_a_series(self, reception: Reception, tmp_path: Path) -> None:
        port = reception.start_node()
        write_datasets([enhanced_mr(mr_voxels(6, 16, 16))], tmp_path / "mr")
        assert storescu(port, tmp_path / "mr") == 0
        wait_for(lambda: completed(reception) == [("association released", 6)])

    def test_four_at_once(self, reception: Reception, tmp_path: Path) -> None:
        port = reception.start_node()
        threads = []
        for sender in range(4):
            folder = tmp_path / str(sender)
            write_datasets(ct_series(ct_voxels(10, 16, 16), subject=Subject(seed=str(sender))), folder)
            threads.append(threading.Thread(target=storescu, args=(port, folder)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_for(lambda: completed(reception) == [("association released", 10)] * 4)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_images_are_stored_as_they_are(reception: Reception, syntax: str) -> None:
    port = reception.start_node()
    dataset = ct()
    dataset.compress(
        syntax, encoding_plugin="pydicom" if syntax == RLELossless else "pyjpegls", generate_instance_uid=False
    )
    association = associate(port, contexts=[build_context(CTImageStorage, [syntax])])
    assert association.send_c_store(dataset).Status == 0x0000
    association.release()
    [(path, stored_syntax)] = reception.rows("SELECT path, transfer_syntax_uid FROM instance")
    assert stored_syntax == syntax
    assert dcmread(reception.spool.absolute(path)).PixelData == dataset.PixelData


def test_one_image_model_starts_at_once(tmp_path: Path) -> None:
    reception = Reception(tmp_path, models=[model("at-once", scope=Scope.INSTANCE)])
    association = associate(reception.start_node())
    assert association.send_c_store(ct()).Status == 0x0000
    assert reception.rows("SELECT model, state FROM job") == [("at-once", "queued")], "before the release"
    association.release()
    reception.stop()


# -- When a series is complete


def test_an_association_for_each_image_is_no_sign(reception: Reception) -> None:
    port = reception.start_node()
    for number in range(3):
        association = associate(port)
        association.send_c_store(ct(number))
        association.release()
    wait_for(lambda: reception.metrics.associations.labels("released")._value.get() == 3)
    assert reception.rows("SELECT sign, state FROM series") == [("stable age", "receiving")]


def test_a_series_over_two_associations_is_complete_when_the_second_is_released(reception: Reception) -> None:
    port = reception.start_node()
    first, second = associate(port), associate(port)
    for number in range(2):
        first.send_c_store(ct(number))
        second.send_c_store(ct(number + 10))
    first.release()
    wait_for(lambda: reception.metrics.associations.labels("released")._value.get() == 1)
    assert reception.rows("SELECT sign FROM series") == [("stable age",)]
    second.release()
    wait_for(lambda: completed(reception) == [("association released", 4)])


def test_an_aborted_association_is_no_sign(reception: Reception) -> None:
    port = reception.start_node()
    association = associate(port)
    for number in range(3):
        association.send_c_store(ct(number))
    association.abort()
    wait_for(lambda: reception.metrics.associations.labels("aborted")._value.get() == 1)
    assert reception.rows("SELECT sign, state FROM series") == [("stable age", "receiving")]


def test_interleaved_series(reception: Reception) -> None:
    port = reception.start_node()
    association = associate(port)
    for number in range(4):
        association.send_c_store(ct(number, series=number % 2))
    association.release()
    wait_for(lambda: completed(reception) == [("association released", 2)] * 2)


# -- Who may associate


def rejection(port: int, **options: str) -> tuple[int, int, int]:
    with RawPeer(port) as peer:
        peer.send(associate_request(**options))
        kind, content = peer.read()
        assert kind == ASSOCIATE_RJ
        assert peer.read() == (0, b"")
    return content[1], content[2], content[3]


def test_unknown_ae_is_rejected(reception: Reception) -> None:
    port = reception.start_node(peers=[Peer(ae_title="SCANNER"), Peer(ae_title="FAR", host="192.0.2.1")])
    assert rejection(port, calling="RAW") == (1, 1, 3)
    assert rejection(port, calling="FAR") == (1, 1, 3), "known, but it comes from another address"
    assert rejection(port, calling="SCANNER", called="SOMEONE") == (1, 1, 7)
    assert associate(port, calling="SCANNER").is_established
    assert reception.metrics.associations.labels("rejected")._value.get() == 3


def test_host_of_a_peer_may_be_a_name(reception: Reception) -> None:
    port = reception.start_node(peers=[Peer(ae_title="SCANNER", host="localhost")])
    assert associate(port, calling="SCANNER").is_established


def test_rejected_associations_leave_no_threads(reception: Reception) -> None:
    port = reception.start_node(peers=[Peer(ae_title="SCANNER")])
    before = threading.active_count()
    for _ in range(20):
        rejection(port, calling="RAW")
    wait_for(lambda: threading.active_count() <= before)


def test_too_many_associations(reception: Reception) -> None:
    port = reception.start_node(max_associations=2)
    first, second = associate(port), associate(port)
    assert first.is_established and second.is_established
    assert rejection(port) == (2, 3, 2)
    first.release()
    wait_for(lambda: associate(port).is_established)


def test_idle_connections_do_not_lock_peers_out(reception: Reception) -> None:
    port = reception.start_node(max_associations=2)
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    assert associate(port).is_established
    for connection in idle:
        connection.close()


def test_unknown_sop_class_is_not_negotiated(reception: Reception) -> None:
    port = reception.start_node()
    find = build_context(PatientRootQueryRetrieveInformationModelFind)
    association = associate(port, contexts=[find, build_context(Verification)])
    assert [context.abstract_syntax for context in association.accepted_contexts] == [Verification]
    association.release()


def test_model_can_want_a_class_of_its_own(tmp_path: Path) -> None:
    spectroscopy = "1.2.840.10008.5.1.4.1.1.4.2"
    reception = Reception(tmp_path, models=[model(sop_class=spectroscopy)])
    port = reception.start_node()
    association = associate(port, contexts=[build_context(spectroscopy)])
    assert [context.abstract_syntax for context in association.accepted_contexts] == [spectroscopy]
    association.release()
    reception.stop()


def test_a_class_is_offered_from_the_moment_that_a_model_wants_it(tmp_path: Path) -> None:
    """When another version is activated; associations that are open keep what they have negotiated."""
    spectroscopy = "1.2.840.10008.5.1.4.1.1.4.2"
    reception = Reception(tmp_path)
    port = reception.start_node()
    assert reception.node is not None

    def accepted() -> list[str]:
        association = associate(port, contexts=[build_context(spectroscopy), build_context(Verification)])
        found = [str(context.abstract_syntax) for context in association.accepted_contexts]
        association.release()
        return found

    assert accepted() == [Verification]
    reception.assessor.replace([model(sop_class=spectroscopy)], {}, [])
    reception.node.want(reception.assessor.sop_class_uids)
    assert accepted() == [spectroscopy, Verification]
    with RawPeer(port) as peer:
        peer.associate(sop_class=spectroscopy)
        reception.assessor.replace([], {}, [])
        reception.node.want(reception.assessor.sop_class_uids)
        peer.send(p_data(store_command(spectroscopy, INSTANCE), command=True, last=True))
        peer.send(p_data(data_set(sop_class=spectroscopy), command=False, last=True))
        assert peer.read_status() == 0
    assert accepted() == [Verification]
    reception.stop()


# -- Bad instances: each is answered with its status, and the association goes on


def send_raw(port: int, content: bytes, *, sop_class: str = CT, instance: str = INSTANCE) -> int:
    with RawPeer(port) as peer:
        peer.associate()
        peer.send(p_data(store_command(sop_class, instance), command=True, last=True))
        peer.send(p_data(content, command=False, last=True))
        status = peer.read_status()
        # Nothing that was in the data set keeps the next one from being stored.
        peer.send(p_data(store_command(CT, "1.2.3.99"), command=True, last=True))
        peer.send(p_data(data_set(instance="1.2.3.99"), command=False, last=True))
        assert peer.read_status() == 0x0000
    return status


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"this is not a data set at all, it is text", 0xC000, "malformed"),
        (b"", 0xC000, "truncated"),
        (data_set()[:-5], 0xC000, "truncated"),
        (data_set(pixels=None) + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 2**31 - 1), 0xC000, "truncated"),
        (data_set(instance="../../../../etc/passwd"), 0xC000, "bad-uid"),
        (data_set(series=""), 0xC000, "missing-uid"),
        (data_set(instance="1.2.3.77"), 0xA900, "mismatch"),
        (data_set(sop_class=MR), 0xA900, "mismatch"),
    ],
)
def test_bad_data_set(
    reception: Reception, caplog: pytest.LogCaptureFixture, content: bytes, status: int, reason: str
) -> None:
    assert send_raw(reception.start_node(), content) == status
    assert reception.count(reason) == 1
    assert "refused an instance from dicom" in caplog.text
    assert "passwd" not in caplog.text and STUDY not in caplog.text


def test_no_pixel_data_is_stored(reception: Reception) -> None:
    assert send_raw(reception.start_node(), data_set(pixels=None)) == 0x0000


def test_wrong_modality_is_stored_and_every_model_says_no(reception: Reception) -> None:
    assert send_raw(reception.start_node(), data_set(modality="XA")) == 0x0000
    reception.journal.instances.settle([1], 0.0, "test")
    wait_for(lambda: completed(reception))
    assert dict(reception.rows("SELECT model, refusal FROM assessment")) == {
        "ct-model": "Modality is XA, wants CT",
        "mr-model": "Modality is XA, wants MR",
    }
    assert reception.rows("SELECT * FROM job") == []


def test_class_other_than_negotiated(reception: Reception) -> None:
    assert send_raw(reception.start_node(), data_set(sop_class=MR), sop_class=MR) == 0x0122


def test_request_without_data_set(reception: Reception) -> None:
    port = reception.start_node()
    with RawPeer(port) as peer:
        peer.associate()
        peer.send(p_data(store_command(with_data_set=False), command=True, last=True))
        assert peer.read_status() == 0xC000
    assert reception.count("no-data-set") == 1


def test_too_big_is_cut_off_while_it_arrives(tmp_path: Path) -> None:
    reception = Reception(tmp_path, max_instance_bytes=1024 * 1024)
    port = reception.start_node()
    with RawPeer(port) as peer:
        peer.associate()
        peer.send(p_data(store_command(), command=True, last=True))
        try:
            for _ in range(200):
                peer.send(p_data(bytes(64 * 1024), command=False, last=False))
        except OSError:
            pass  # it is cut off by now
        assert ABORT in peer.read_to_end() or reception.count("too-big") == 1
    wait_for(lambda: reception.incoming() == [])
    assert reception.count("too-big") == 1
    reception.stop()


def test_other_content_under_a_known_uid(reception: Reception) -> None:
    port = reception.start_node()
    assert send_raw(port, data_set()) == 0x0000
    assert send_raw(port, data_set(pixels=bytes([7]) * 32)) == 0x0000
    assert reception.count("conflict") == 1
    path = reception.spool.instance_path(STUDY, SERIES, INSTANCE)
    assert path.read_bytes().endswith(data_set())
    assert reception.rows("SELECT count(*) FROM conflict") == [(1,)]


def test_below_the_mark_and_back(
    reception: Reception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reception.spool.min_free_bytes = 1024
    free = [10]
    monkeypatch.setattr(spool_module.Spool, "free_bytes", lambda self: free[0])
    association = associate(reception.start_node())
    answer = association.send_c_store(ct())
    assert answer.Status == 0xA700
    assert answer.ErrorComment == "no room, or the disk failed"
    assert "below its water mark" in caplog.text
    assert reception.count("no-room") == 1
    free[0] = 1 << 30
    assert association.send_c_store(ct()).Status == 0x0000, "without a restart, on the same association"
    association.release()


def test_full_disk_while_it_arrives(reception: Reception, monkeypatch: pytest.MonkeyPatch) -> None:
    association = associate(reception.start_node())
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 400:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr("appliance.spool.incoming.os.write", full)
        assert association.send_c_store(ct()).Status == 0xA700
    assert association.send_c_store(ct()).Status == 0x0000
    association.release()


@pytest.mark.parametrize(("number", "fatal"), [(errno.EIO, True), (errno.ENOSPC, False)])
def test_the_disk_does_not_take_it(
    number: int, fatal: bool, reception: Reception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is promised; unless it was only full, the role ends, as all that is on its way may be lost."""
    association = associate(reception.start_node())
    assert association.send_c_store(ct()).Status == 0x0000

    def failing(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("appliance.spool.durable.os.fsync", failing)
        assert association.send_c_store(ct(2)).Status == 0xA700
    association.abort()
    assert reception.fatal.is_set() == fatal
    reception.fatal.clear()
    assert reception.rows("SELECT count(*) FROM instance") == [(1,)]


def test_an_error_of_ours_is_answered(reception: Reception, monkeypatch: pytest.MonkeyPatch) -> None:
    association = associate(reception.start_node())
    with monkeypatch.context() as patch:
        patch.setattr(reception.store, "accept", lambda *_, **__: 1 / 0)
        assert association.send_c_store(ct()).Status == 0x0110
    assert association.send_c_store(ct()).Status == 0x0000
    association.release()


# -- Misbehaviour on the line


def quiet_again(reception: Reception) -> None:
    """Wait until no association is left, and nothing of one."""
    wait_for(lambda: reception.incoming() == [], what="an empty incoming")
    wait_for(lambda: not [t for t in threading.enumerate() if "AcceptorThread" in t.name], what="ended threads")


def test_peer_that_stops_in_the_middle(reception: Reception) -> None:
    port = reception.start_node(network_timeout_s=0.5)
    with RawPeer(port) as peer:
        peer.associate()
        peer.send(p_data(store_command(), command=True, last=True))
        peer.send(p_data(data_set()[:50], command=False, last=False))
        wait_for(lambda: len(reception.incoming()) == 1)
        assert peer.read_to_end() == [ABORT]
    quiet_again(reception)
    assert reception.metrics.associations.labels("aborted")._value.get() == 1


def test_peer_that_stops_within_a_pdu(reception: Reception) -> None:
    port = reception.start_node(pdu_timeout_s=0.5)
    with RawPeer(port) as peer:
        peer.associate()
        peer.send(p_data(store_command(), command=True, last=True), p_data(data_set(), command=False, last=True)[:40])
        peer.read_to_end()
    quiet_again(reception)


def test_slow_loris(reception: Reception) -> None:
    port = reception.start_node(negotiation_timeout_s=0.5)
    started = time.monotonic()
    with RawPeer(port) as peer:
        try:
            for byte in associate_request():
                peer.send(bytes([byte]))
                # One byte at a time keeps any plain read time-out from expiring.
                if peer.connection.fileno() < 0 or select_readable(peer.connection, 0.05):
                    break
        except OSError:
            pass
    assert time.monotonic() - started < 5
    quiet_again(reception)


def select_readable(connection: socket.socket, timeout_s: float) -> bool:
    return bool(select.select([connection], [], [], timeout_s)[0])


def test_peer_that_goes_away_in_the_middle(reception: Reception) -> None:
    port = reception.start_node()
    for linger in (False, True):
        with RawPeer(port) as peer:
            peer.associate()
            peer.send(p_data(store_command(), command=True, last=True))
            peer.send(p_data(data_set()[:50], command=False, last=False))
            wait_for(lambda: len(reception.incoming()) == 1)
            if linger:  # a reset instead of an orderly end
                peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        quiet_again(reception)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: scanner\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        bytes(1000),
        struct.pack(">BBI", 1, 0, 0xFFFFFFFF) + bytes(100),
        struct.pack(">BBI", 4, 0, 2**31) + bytes(100),
        associate_request()[:60],
        p_data(data_set(), command=False, last=True),
    ],
)
def test_garbage(reception: Reception, garbage: bytes) -> None:
    port = reception.start_node(negotiation_timeout_s=1.0)
    with RawPeer(port) as peer:
        peer.send(garbage)
        peer.read_to_end()
    quiet_again(reception)
    assert associate(port).is_established


@pytest.mark.parametrize(
    "pdus",
    [
        [p_data(data_set(), command=False, last=True)],
        [p_data(b"", command=False, last=True)],
        [p_data(b"\xff" * 100, command=True, last=True)],
        [p_data(bytes(60_000), command=True, last=False)] * 3,
        [
            p_data(store_command(), command=True, last=True, context=99),
            p_data(data_set(), command=False, last=True, context=99),
        ],
        [struct.pack(">BBI", 4, 0, 4) + struct.pack(">I", 0)],
        [struct.pack(">BBI", 4, 0, 2**32 - 1) + bytes(100)],
        [associate_request()],
        [
            p_data(store_command(instance="../../x"), command=True, last=True),
            p_data(data_set(), command=False, last=True),
        ],
    ],
)
def test_garbage_within_an_association(reception: Reception, pdus: list[bytes]) -> None:
    port = reception.start_node(network_timeout_s=1.0, pdu_timeout_s=1.0)
    with RawPeer(port) as peer:
        peer.associate()
        peer.send(*pdus)
        peer.read_to_end()
    quiet_again(reception)
    assert reception.rows("SELECT * FROM instance") == []
    assert associate(port).is_established


@pytest.mark.parametrize(
    "end",
    [
        # An A-ABORT from a source that there is not; the library's reader thread would die of it.
        struct.pack(">BBIBBBB", 7, 0, 4, 0, 0, 7, 9),
        # A release, and garbage before it is answered: the answer comes too late, and the thread would die of that.
        struct.pack(">BBII", 5, 0, 4, 0) + bytes([99, 0, 0, 0, 0, 0]),
    ],
)
def test_an_end_that_the_library_cannot_act_on(reception: Reception, end: bytes) -> None:
    port = reception.start_node()
    with RawPeer(port) as peer:
        peer.associate()
        peer.send(end)
        peer.read_to_end()
    quiet_again(reception)


def test_a_request_that_cannot_be_negotiated(reception: Reception, caplog: pytest.LogCaptureFixture) -> None:
    """A context without an abstract syntax: the association's thread would die and leave the connection open."""
    port = reception.start_node()
    request = associate_request().replace(
        b"\x30\x00" + struct.pack(">H", len(CT)), b"\x40\x00" + struct.pack(">H", len(CT))
    )
    with RawPeer(port) as peer:
        peer.send(request)
        assert peer.read_to_end() == []
    quiet_again(reception)
    assert "cannot be served" in caplog.text
    gc.collect()  # a connection that nobody closed would be told of, which is an error in tests


@pytest.mark.parametrize("element", [0x0002, 0x0110, 0x1000])
def test_a_request_that_lacks_something_ends_the_association(reception: Reception, element: int) -> None:
    """The library would pass over it in silence, and the sender wait for its answer."""
    port = reception.start_node()
    command = store_command().replace(struct.pack("<HH", 0, element), struct.pack("<HH", 0, element + 1))
    assert command != store_command()
    with RawPeer(port) as peer:
        peer.associate()
        peer.send(p_data(command, command=True, last=True), p_data(data_set(), command=False, last=True))
        assert peer.read_to_end() == [7], "A-ABORT"
    quiet_again(reception)
    assert reception.count("bad-request") == 1
    assert reception.rows("SELECT * FROM instance") == []


def test_stop_does_not_wait_for_peers(reception: Reception) -> None:
    port = reception.start_node()
    with RawPeer(port) as peer:
        peer.associate()
        peer.send(p_data(store_command(), command=True, last=True))
        peer.send(p_data(data_set()[:50], command=False, last=False))
        wait_for(lambda: len(reception.incoming()) == 1)
        started = time.monotonic()
        assert reception.node is not None
        reception.node.stop()
        assert time.monotonic() - started < 3
        quiet_again(reception)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


# -- What it costs


def test_many_associations_use_up_nothing(reception: Reception) -> None:
    port = reception.start_node()
    process = psutil.Process()

    def one(number: int) -> None:
        association = associate(port)
        assert association.send_c_store(ct(number)).Status == 0x0000
        association.release()

    for number in range(10):
        one(number)
    quiet_again(reception)
    descriptors, memory = process.num_fds(), process.memory_info().rss
    for number in range(10, 60):
        one(number)
    quiet_again(reception)
    assert process.num_fds() <= descriptors + 5
    assert process.memory_info().rss - memory < 20 * 1024 * 1024


def test_association_set_up_is_not_paid_for_contexts_that_nobody_asked_for(reception: Reception) -> None:
    port = reception.start_node()
    seconds = []
    for _ in range(7):
        with RawPeer(port) as peer:
            started = time.perf_counter()
            peer.send(associate_request())
            assert peer.read()[0] == ASSOCIATE_AC
            seconds.append(time.perf_counter() - started)
    # About 4 ms on an idle machine; the library's own way with as many contexts takes more than 30 ms.
    assert sorted(seconds)[3] < 0.025
