"""Results on their way out, to real peers and to peers that misbehave."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from appliance.config.settings import Retry
from appliance.delivery import dicom as dicom_module
from appliance.delivery import sender as sender_module
from appliance.delivery.destinations import make_destination
from appliance.errors import DestinationUnreachable
from tests.support.outbox import Outbox, folder, pacs
from tests.support.peers import (
    ABORT,
    DISCONNECT,
    HANG,
    SC,
    SEG,
    SR,
    DcmtkStoreScp,
    FakePacs,
    Orthanc,
    RawAcceptor,
    accept_association,
    needs_dcmtk,
    needs_orthanc,
    receive_pdu,
)
from tests.support.ports import free_port
from tests.support.result_files import IMPLICIT, data_set_bytes, result_file, result_files
from tests.support.waiting import wait_for


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(tmp_path / "state")
    yield outbox
    outbox.close()


def sent(outbox: Outbox, destination: str = "pacs") -> list[bytes]:
    """The data sets in the outbox, sorted."""
    return sorted(data_set_bytes(outbox.spool.absolute(row["path"])) for row in outbox.rows(destination))


def values(dataset: Dataset) -> list[tuple[int, object]]:
    """Tags and values; without the value representations, which Implicit VR does not tell (OB, OW)."""
    return [(element.tag, element.value) for element in dataset.iterall() if element.VR != "SQ"]


class TestRealPacs:
    pytestmark = needs_dcmtk

    def test_dcmtk_gets_the_very_bytes(self, outbox: Outbox, tmp_path: Path) -> None:
        with DcmtkStoreScp(tmp_path / "pacs") as scp:
            outbox.put("1", [pacs(scp.port)])
            outbox.sender(pacs(scp.port))
            wait_for(outbox.are_delivered, what="the delivery")

            assert sorted(map(data_set_bytes, scp.files())) == sent(outbox)
            assert [row["status"] for row in outbox.rows()] == [0, 0, 0]

    def test_a_pacs_that_was_down_gets_all_when_it_is_up(self, outbox: Outbox, tmp_path: Path) -> None:
        port = free_port()
        outbox.sender(pacs(port))
        for seed in ("1", "2"):
            outbox.put(seed, [pacs(port)])
        wait_for(lambda: outbox.count("postponed") >= 2, what="attempts in vain")
        assert "refused" in str(outbox.rows()[0]["message"])

        with DcmtkStoreScp(tmp_path / "pacs", port=port):
            wait_for(outbox.are_delivered, what="the delivery")

    def test_implicit_only(self, outbox: Outbox, tmp_path: Path) -> None:
        with DcmtkStoreScp(tmp_path / "pacs", "+xi") as scp:
            outbox.put("1", [pacs(scp.port)])
            outbox.sender(pacs(scp.port))
            wait_for(outbox.are_delivered, what="the delivery")

            received = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, scp.files())}
        for row in outbox.rows():
            file = dcmread(outbox.spool.absolute(row["path"]))
            assert received[file.SOPInstanceUID].file_meta.TransferSyntaxUID == IMPLICIT
            assert values(received[file.SOPInstanceUID]) == values(file)

    @pytest.mark.parametrize("option", ["--abort-after", "--abort-during", "--refuse"])
    def test_a_pacs_that_gives_up_in_the_middle(self, outbox: Outbox, tmp_path: Path, option: str) -> None:
        port = free_port()
        with DcmtkStoreScp(tmp_path / "broken", option, port=port):
            outbox.put("1", [pacs(port)])
            outbox.sender(pacs(port))
            wait_for(lambda: outbox.count("postponed") >= 2, what="attempts in vain")

        with DcmtkStoreScp(tmp_path / "whole", port=port) as scp:
            wait_for(outbox.are_delivered, what="the delivery")
            assert sorted(map(data_set_bytes, scp.files())) == sent(outbox)

    @pytest.mark.parametrize("max_pdu", ["4096", "131072"])
    def test_large_objects_in_the_pdus_that_the_peer_takes(self, tmp_path: Path, max_pdu: str) -> None:
        file = result_file(tmp_path / "spool", "sc", "large", pixels=2003)
        with DcmtkStoreScp(tmp_path / "pacs", "-pdu", max_pdu) as scp:
            destination = make_destination(pacs(scp.port), "APPLIANCE")
            assert destination.send(file) == 0
            destination.close()

            assert [data_set_bytes(path) for path in scp.files()] == [data_set_bytes(file.path)]

    def test_quick(self, tmp_path: Path) -> None:
        files = [result_file(tmp_path / "spool", "sr", str(number)) for number in range(40)]
        with DcmtkStoreScp(tmp_path / "pacs") as scp:
            destination = make_destination(pacs(scp.port), "APPLIANCE")
            seconds = []
            for file in files:
                start = time.perf_counter()
                destination.send(file)
                seconds.append(time.perf_counter() - start)
            destination.close()
        # Delayed acknowledgements alone would cost 40 ms.
        assert statistics.median(seconds) < 0.02

    def test_result_in_the_outbox_to_acknowledgement(self, outbox: Outbox, tmp_path: Path) -> None:
        with DcmtkStoreScp(tmp_path / "pacs") as scp:
            outbox.sender(pacs(scp.port))
            outbox.put("1", [pacs(scp.port)], kinds=["sr"])
            wait_for(outbox.are_delivered, what="the delivery")
        row = outbox.rows()[0]
        assert row["finished_at"] - row["created_at"] < 0.5, "a hint woke the sender, not the poll"


class TestOrthanc:
    pytestmark = needs_orthanc

    def test_it_takes_all_kinds(self, outbox: Outbox, tmp_path: Path) -> None:
        with Orthanc(tmp_path / "orthanc", ae_title="PACS") as orthanc:
            outbox.put("1", [pacs(orthanc.port, timeout_s=20)])
            outbox.sender(pacs(orthanc.port, timeout_s=20))
            wait_for(outbox.are_delivered, 30, what="the delivery")
            kinds = {orthanc.tags(identifier)["SOPClassUID"] for identifier in orthanc.instances()}
        assert kinds == {SR, SEG, SC}

    def test_unknown_called_ae_title(self, outbox: Outbox, tmp_path: Path) -> None:
        with Orthanc(tmp_path / "orthanc", ae_title="OTHER") as orthanc:
            outbox.put("1", [pacs(orthanc.port)])
            outbox.sender(pacs(orthanc.port))
            message = wait_for(lambda: outbox.rows()[0]["message"], what="the reason")
        assert "rejected the association" in message
        assert "'PACS' know 'APPLIANCE'" in message
        assert "failed" not in outbox.states()


class TestStatus:
    @pytest.mark.parametrize("status", [0x0000, 0x0111, 0xB000, 0xB006, 0xB007])
    def test_delivered(self, outbox: Outbox, status: int) -> None:
        with FakePacs([status]) as peer:
            outbox.put("1", [pacs(peer.port)], kinds=["sr"])
            outbox.sender(pacs(peer.port))
            wait_for(outbox.are_delivered, what="the delivery")
        assert outbox.rows()[0]["status"] == status
        assert outbox.rows()[0]["attempts"] == 1

    @pytest.mark.parametrize("status", [0xA700, 0xA7FF, 0x0110])
    def test_tried_again(self, outbox: Outbox, status: int) -> None:
        with FakePacs([status, status]) as peer:
            uids = outbox.put("1", [pacs(peer.port)], kinds=["sr"])
            outbox.sender(pacs(peer.port))
            wait_for(outbox.are_delivered, what="the delivery")
            assert peer.uids() == uids * 3
        assert outbox.rows()[0]["attempts"] == 3
        assert outbox.count("postponed") == 2

    @pytest.mark.parametrize("status", [0xC000, 0xC123, 0xA900, 0x0122, 0x0124, 0x4321])
    def test_failed_in_sight_and_requeued(self, outbox: Outbox, status: int) -> None:
        with FakePacs([status]) as peer:
            uids = outbox.put("1", [pacs(peer.port)])
            outbox.sender(pacs(peer.port))
            wait_for(lambda: outbox.states() == ["failed", "delivered", "delivered"], what="the others to go on")
            row = outbox.rows()[0]
            assert row["status"] == status
            assert f"0x{status:04X}" in row["message"]
            assert outbox.count("failed") == 1

            assert outbox.journal.deliveries.requeue(time.time()) == 1
            wait_for(outbox.are_delivered, what="the requeued delivery")
            assert peer.uids() == [*uids, uids[0]]


class TestMisbehaviour:
    @pytest.mark.parametrize("answer", [ABORT, DISCONNECT, HANG])
    def test_no_answer(self, outbox: Outbox, answer: str) -> None:
        with FakePacs([0x0000, answer]) as peer:
            uids = outbox.put("1", [pacs(peer.port, timeout_s=0.5)])
            outbox.sender(pacs(peer.port, timeout_s=0.5))
            wait_for(outbox.are_delivered, what="the delivery")
            assert set(peer.uids()) == set(uids), "the same UIDs again"
        # An association that ends under the sender is made anew at once; one that hangs is given a rest.
        assert [row["attempts"] for row in outbox.rows()] == [1, 2 if answer == HANG else 1, 1]

    @pytest.mark.parametrize(
        "noise",
        [
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x02\x00\xff\xff\xff\xff",
            b"\x02\x00\x00\x00\x00\x04abcd",
            b"\x03\x00\x00\x00\x00\x01a",
            b"\x04\x00\x00\x00\x00\x01a",
            b"\x02\x00\x00\x00\x00\xff" + b"\x21" * 20,
            b"",
        ],
    )
    def test_garbage_for_an_association(self, outbox: Outbox, noise: bytes) -> None:
        def behave(connection: socket.socket) -> None:
            receive_pdu(connection)
            connection.sendall(noise)

        self._is_retried(outbox, behave)

    @pytest.mark.parametrize(
        "noise",
        [
            b"\x04\x00\x00\x00\x00\x03abc",
            b"\x04\x00\x00\x00\x00\x08\x00\x00\xff\xff\x01\x03ab",
            b"\x04\x00\x00\x00\x00\x08\x00\x00\x00\x04\x01\x03ab",
            b"\x04\x00\x00\x00\x00\x08\x00\x00\x00\x04\x01\x02ab",
            b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00",
            b"\xff" * 100,
            b"\x04\x00",
        ],
    )
    def test_garbage_for_an_answer(self, outbox: Outbox, noise: bytes) -> None:
        def behave(connection: socket.socket) -> None:
            accept_association(connection)
            receive_pdu(connection)
            connection.sendall(noise)

        self._is_retried(outbox, behave)

    def test_an_endless_answer(self, outbox: Outbox) -> None:
        def behave(connection: socket.socket) -> None:
            accept_association(connection)
            while True:
                connection.sendall(b"\x04\x00\x00\x00\x40\x06\x00\x00\x40\x02\x01\x01" + bytes(0x4000))

        self._is_retried(outbox, behave)

    def test_an_answer_byte_by_byte(self, outbox: Outbox) -> None:
        def behave(connection: socket.socket) -> None:
            accept_association(connection)
            connection.sendall(b"\x04\x00\x00\x00\x00\xff")
            connection.settimeout(0.05)
            while True:
                connection.sendall(b"\x00")
                try:
                    if not connection.recv(65536):
                        return
                except TimeoutError:
                    pass

        self._is_retried(outbox, behave)

    def test_a_peer_that_takes_nothing_in(self, tmp_path: Path) -> None:
        def behave(connection: socket.socket) -> None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            accept_association(connection)
            gone.wait(20)

        gone = threading.Event()
        file = result_file(tmp_path / "spool", "sc", "large", pixels=2003)
        with RawAcceptor(behave) as peer:
            destination = make_destination(pacs(peer.port, timeout_s=0.5), "APPLIANCE")
            start = time.monotonic()
            with pytest.raises(Exception, match="no answer in time"):
                destination.send(file)
            assert time.monotonic() - start < 5
            gone.set()

    @staticmethod
    def _is_retried(outbox: Outbox, behave: Callable[[socket.socket], None]) -> None:
        with RawAcceptor(behave) as peer:
            outbox.put("1", [pacs(peer.port)], kinds=["sr"])
            outbox.sender(pacs(peer.port, timeout_s=0.5))
            wait_for(lambda: outbox.count("postponed") >= 2, what="attempts in vain")
            assert outbox.rows()[0]["message"]


class TestNegotiation:
    def test_one_association_for_all_with_what_is_needed(self, outbox: Outbox) -> None:
        with FakePacs() as peer:
            for seed in ("1", "2"):
                outbox.put(seed, [pacs(peer.port)])
            outbox.sender(pacs(peer.port))
            wait_for(outbox.are_delivered, what="the delivery")
            assert peer.associations == 1
            assert {sop_class for sop_class, _ in peer.offered} == {SR, SEG, SC}
            assert len(peer.offered) == 6, "each SOP class in Explicit and in Implicit VR Little Endian"

    def test_a_class_that_is_not_taken_fails_in_sight(self, outbox: Outbox) -> None:
        with FakePacs(sop_classes=[SR, SC]) as peer:
            outbox.put("1", [pacs(peer.port)])
            outbox.sender(pacs(peer.port))
            wait_for(lambda: outbox.states() == ["delivered", "delivered", "failed"], what="the others to go on")
        message = outbox.rows()[2]["message"]
        assert "does not take Segmentation Storage in Explicit VR Little Endian or Implicit VR" in message
        assert "it takes Comprehensive 3D SR Storage, Secondary Capture Image Storage only" in message

    def test_what_is_too_large_to_be_rewritten_fails_in_sight(
        self, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dicom_module, "_LARGEST_REWRITTEN_BYTES", 1400)
        with FakePacs(transfer_syntaxes=[IMPLICIT]) as peer:
            outbox.put("1", [pacs(peer.port)])
            sizes = [outbox.spool.absolute(row["path"]).stat().st_size for row in outbox.rows()]
            expected = ["failed" if size > 1400 else "delivered" for size in sizes]
            assert len(set(expected)) == 2
            outbox.sender(pacs(peer.port))
            wait_for(lambda: outbox.states() == expected, what="the others to go on")
        message = outbox.rows()[expected.index("failed")]["message"]
        assert "too large to be rewritten in Implicit VR Little Endian" in message

    def test_a_new_kind_of_object_gets_a_new_association(self, tmp_path: Path) -> None:
        with FakePacs() as peer:
            destination = make_destination(pacs(peer.port), "APPLIANCE")
            for file in result_files(tmp_path / "spool"):
                assert destination.send(file) == 0
            assert peer.associations == 3
            for file in result_files(tmp_path / "spool"):
                assert destination.send(file) == 0
            assert peer.associations == 3, "by then it is known what is needed"
            destination.close()

    def test_an_idle_association_is_released(self, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sender_module, "_IDLE_S", 0.1)
        with FakePacs() as peer:
            outbox.sender(pacs(peer.port))
            outbox.put("1", [pacs(peer.port)], kinds=["sr"])
            wait_for(outbox.are_delivered, what="the delivery")
            wait_for(lambda: not peer.open_associations(), what="the release")
            assert peer.released == 1

    def test_an_association_that_the_peer_ended_is_made_anew(self, tmp_path: Path) -> None:
        with FakePacs() as peer:
            destination = make_destination(pacs(peer.port), "APPLIANCE")
            destination.send(result_file(tmp_path / "spool", "sr", "1"))
            peer.end_associations()
            wait_for(lambda: not peer.open_associations(), what="the peer's end")

            assert destination.send(result_file(tmp_path / "spool", "sr", "2")) == 0
            assert peer.associations == 2
            destination.close()


class TestPatience:
    def test_an_outage_costs_no_attempts_and_keeps_the_order(self, outbox: Outbox) -> None:
        port = free_port()
        uids = [uid for seed in range(15) for uid in outbox.put(str(seed), [pacs(port)])]
        outbox.sender(pacs(port))
        tries = wait_for(lambda: outbox.count("postponed") >= 5 and outbox.count("postponed"), what="attempts in vain")
        uids += outbox.put("late", [pacs(port)])

        with FakePacs(port=port) as peer:
            wait_for(outbox.are_delivered, what="the delivery")
            assert peer.uids() == uids
        attempts = [row["attempts"] for row in outbox.rows()]
        assert attempts[0] > tries, "one of them was the probe"
        assert set(attempts[1:]) == {1}

    def test_an_object_that_breaks_the_peer_does_not_hold_up_the_others(self, outbox: Outbox) -> None:
        class Fragile(FakePacs):
            def _answer(self, uid: str) -> int | str:
                return ABORT if uid == uids[0] else 0x0000

        with Fragile() as peer:
            uids = outbox.put("1", [pacs(peer.port)])
            uids += outbox.put("2", [pacs(peer.port)])
            outbox.sender(pacs(peer.port))
            wait_for(lambda: outbox.states().count("delivered") == 5, what="the others to go on")
            assert outbox.states()[0] in ("queued", "sending")

    def test_given_up_in_the_end(self, outbox: Outbox) -> None:
        settings = pacs(free_port(), retry=Retry(first_s=0.05, longest_s=0.1, give_up_after_s=0.3))
        outbox.put("1", [settings])
        outbox.sender(settings)
        wait_for(lambda: outbox.states() == ["failed"] * 3, what="the end of patience")
        assert "given up after" in outbox.rows()[0]["message"]
        assert "refused" in outbox.rows()[2]["message"]

    def test_a_stuck_destination_delays_no_other(self, outbox: Outbox, tmp_path: Path) -> None:
        (tmp_path / "share").mkdir()
        with FakePacs([HANG]) as stuck, FakePacs() as quick:
            settings = [
                pacs(stuck.port, "stuck", timeout_s=60),
                pacs(quick.port, "quick"),
                folder(tmp_path / "share"),
                pacs(free_port(), "down"),
            ]
            for destination in settings:
                outbox.sender(destination)
            outbox.put("1", settings)
            wait_for(lambda: outbox.are_delivered("quick") and outbox.are_delivered("share"), what="the other ones")
            assert set(outbox.states("stuck")) == {"sending"}
            assert "delivered" not in outbox.states("down")

            stuck.let_go()
            wait_for(lambda: outbox.are_delivered("stuck"), what="the slow one")

    def test_a_folder_that_comes_back(self, outbox: Outbox, tmp_path: Path) -> None:
        settings = folder(tmp_path / "share")
        outbox.put("1", [settings])
        outbox.sender(settings)
        wait_for(lambda: outbox.count("postponed", "share") >= 2, what="attempts in vain")
        assert not settings.path.exists(), "a missing mount is not replaced by a local folder"

        settings.path.mkdir()
        wait_for(lambda: outbox.are_delivered("share"), what="the delivery")
        assert sorted(map(data_set_bytes, settings.path.iterdir())) == sent(outbox, "share")


class TestStop:
    def test_what_is_under_way_is_finished(self, outbox: Outbox) -> None:
        with FakePacs([HANG]) as peer:
            outbox.put("1", [pacs(peer.port)])
            sender = outbox.sender(pacs(peer.port))
            wait_for(peer.uids, what="the first object")
            peer.let_go()
            sender.stop()
        assert outbox.states()[0] == "delivered"
        assert "sending" not in outbox.states()

    def test_what_cannot_be_finished_is_returned(self, outbox: Outbox) -> None:
        with FakePacs([HANG]) as peer:
            outbox.put("1", [pacs(peer.port)])
            sender = outbox.sender(pacs(peer.port, timeout_s=60))
            wait_for(peer.uids, what="the first object")
            start = time.monotonic()
            sender.stop()
            assert time.monotonic() - start < 5
        assert outbox.states() == ["queued"] * 3
        assert [row["attempts"] for row in outbox.rows()] == [0, 0, 0]

    def test_while_connecting(self, outbox: Outbox) -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            # Two connections fill the backlog; the kernel lets further ones wait.
            with socket.create_connection(("127.0.0.1", port)), socket.socket() as second:
                second.setblocking(False)
                second.connect_ex(("127.0.0.1", port))
                outbox.put("1", [pacs(port)], kinds=["sr"])
                sender = outbox.sender(pacs(port, timeout_s=60))
                wait_for(lambda: outbox.states() == ["sending"], what="the attempt")
                start = time.monotonic()
                sender.stop()
                assert time.monotonic() - start < 5
        assert outbox.states() == ["queued"]

    def test_kill_9_in_flight(self, tmp_path: Path) -> None:
        root = tmp_path / "state"
        with FakePacs([0x0000, HANG]) as peer:
            first = Outbox(root)
            uids = first.put("1", [pacs(peer.port, timeout_s=60)])
            first.close()
            process = subprocess.Popen([sys.executable, "-c", _SENDER, str(root), str(peer.port)])
            try:
                wait_for(lambda: len(peer.uids()) == 2, 30, what="the second object")
                wait_for(lambda: "delivered" in first.states(), what="the commit of the first one's answer")
            finally:
                os.kill(process.pid, signal.SIGKILL)
                process.wait(10)

            second = Outbox(root)
            assert second.states() == ["delivered", "sending", "sending"]
            second.sender(pacs(peer.port))
            wait_for(second.are_delivered, what="the delivery")
            assert peer.uids() == [uids[0], uids[1], uids[1], uids[2]]
            second.close()


_SENDER = """
import sys, time
from pathlib import Path
from tests.support.outbox import Outbox, pacs
Outbox(Path(sys.argv[1])).sender(pacs(int(sys.argv[2]), timeout_s=60))
time.sleep(60)
"""


def test_a_host_that_nobody_knows(tmp_path: Path) -> None:
    settings = pacs(11112).model_copy(update={"host": "no-such-host.invalid"})
    with pytest.raises(DestinationUnreachable, match=r"no-such-host\.invalid"):
        make_destination(settings, "APPLIANCE").send(result_file(tmp_path / "spool", "sr", "1"))
