"""The fast lane: what it serves, what it leaves to the library, and that nobody outside can tell which of them did.

Everything in ``test_reception`` goes through it too; here are the borders between the two. When the library changes
what the lane relies on, ``test_the_lane_serves`` fails, or images are received at the library's own pace.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom import AE, build_context
from pynetdicom.sop_class import Verification

from appliance.intake.association import OpenAssociation
from tests.support.dicom_factory import ct_series, ct_voxels, write_datasets
from tests.support.peers import needs_dcmtk
from tests.support.raw_peer import ABORT, P_DATA, RELEASE_RP, RawPeer, p_data, store_command
from tests.support.received_files import CT, EXPLICIT, INSTANCE, data_set
from tests.support.reception import Reception
from tests.support.scanner import storescu
from tests.support.waiting import wait_for

RELEASE_RQ = struct.pack(">BBI4x", 5, 0, 4)


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    made = Reception(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of values of each P-DATA primitive that the library got."""
    seen: list[int] = []
    receive = OpenAssociation._receive

    def watched(association: OpenAssociation, primitive: Any) -> None:
        seen.append(len(primitive.presentation_data_value_list))
        receive(association, primitive)

    monkeypatch.setattr(OpenAssociation, "_receive", watched)
    return seen


def uid(number: int) -> str:
    return f"{INSTANCE}.{number}"


def command(number: int) -> bytes:
    return p_data(store_command(instance=uid(number)), command=True, last=True)


def image(number: int) -> bytes:
    return data_set(instance=uid(number))


def store(number: int) -> bytes:
    """A whole request, in two PDUs."""
    return command(number) + p_data(image(number), command=False, last=True)


def stored(reception: Reception) -> list[str]:
    return [row[0] for row in reception.rows("SELECT sop_instance_uid FROM instance ORDER BY instance_id")]


def test_the_lane_serves(reception: Reception, left_to_the_library: list[int]) -> None:
    """One request after the other, and a release; the files are the bytes that came."""
    port = reception.start_node()
    with RawPeer(port) as peer:
        peer.associate()
        for number in range(1, 6):
            peer.send(store(number))
            assert peer.read_status() == 0x0000
        peer.send(RELEASE_RQ)
        assert peer.read()[0] == RELEASE_RP
    assert left_to_the_library == []
    assert stored(reception) == [uid(number) for number in range(1, 6)]
    for (path,) in reception.rows("SELECT path FROM instance"):
        content = (reception.spool.root / path).read_bytes()
        assert dcmread(reception.spool.root / path).file_meta.TransferSyntaxUID == EXPLICIT
        assert content.endswith(image(int(path.rpartition(".dcm")[0].rpartition(".")[2])))


def test_requests_that_are_sent_ahead(reception: Reception, left_to_the_library: list[int]) -> None:
    """All at once, with the release behind them: answered in order, none is lost."""
    with RawPeer(reception.start_node()) as peer:
        peer.associate()
        peer.send(*(store(number) for number in range(1, 9)), RELEASE_RQ)
        assert [peer.read_status() for _ in range(8)] == [0] * 8
        assert peer.read()[0] == RELEASE_RP
    assert left_to_the_library == []
    assert len(stored(reception)) == 8


def test_pieces_of_any_size(reception: Reception, left_to_the_library: list[int]) -> None:
    """Data sets in fragments, and the stream of bytes in pieces, that end anywhere."""
    chance = random.Random(4)
    stream = b""
    for number in range(1, 6):
        content, fragments = image(number), []
        while content:
            size = chance.randint(1, 80)
            fragments.append(content[:size])
            content = content[size:]
        stream += command(number)
        for index, fragment in enumerate(fragments):
            stream += p_data(fragment, command=False, last=index == len(fragments) - 1)
    with RawPeer(reception.start_node()) as peer:
        peer.associate()
        while stream:
            size = chance.randint(1, 200)
            peer.send(stream[:size])
            stream = stream[size:]
        assert [peer.read_status() for _ in range(5)] == [0] * 5
    assert left_to_the_library == []
    assert len(stored(reception)) == 5


def test_several_values_in_one_pdu(reception: Reception, left_to_the_library: list[int]) -> None:
    """The whole message in one PDU, then one and a half messages in one: the rest of it goes on in the next."""
    values = [store(number) for number in (1, 2)]
    one, two = (value[6 : 6 + struct.unpack(">I", value[2:6])[0]] + value[len(command(1)) + 6 :] for value in values)
    with RawPeer(reception.start_node()) as peer:
        peer.associate()
        peer.send(struct.pack(">BBI", 4, 0, len(one)) + one)
        assert peer.read_status() == 0
        three = command(3)[6:]
        peer.send(struct.pack(">BBI", 4, 0, len(two) + len(three)) + two + three)
        peer.send(p_data(image(3), command=False, last=True))
        assert [peer.read_status() for _ in range(2)] == [0, 0]
    assert left_to_the_library == []
    assert stored(reception) == [uid(1), uid(2), uid(3)]


def test_what_is_not_a_store_is_the_librarys(reception: Reception, left_to_the_library: list[int]) -> None:
    """A command in two fragments, which the lane leaves alone, then usual ones, which it takes again."""
    split = store_command(instance=uid(2))
    with RawPeer(reception.start_node()) as peer:
        peer.associate()
        peer.send(store(1))
        assert peer.read_status() == 0
        peer.send(p_data(split[:40], command=True, last=False), p_data(split[40:], command=True, last=True))
        peer.send(p_data(image(2), command=False, last=True))
        assert peer.read_status() == 0
        assert left_to_the_library == [1, 1, 1]
        peer.send(store(3))
        assert peer.read_status() == 0
    assert left_to_the_library == [1, 1, 1]
    assert stored(reception) == [uid(1), uid(2), uid(3)]


def test_other_services_between_images(reception: Reception, left_to_the_library: list[int]) -> None:
    """C-ECHO, C-STORE and C-ECHO on one association, by the library as the scanner."""
    entity = AE("SCU")
    entity.requested_contexts = [build_context(CT, EXPLICIT), build_context(Verification)]
    association = entity.associate("127.0.0.1", reception.start_node(), ae_title="APPLIANCE")
    (dataset,) = ct_series(ct_voxels(1, 64, 64))
    assert association.send_c_echo().Status == 0
    assert association.send_c_store(dataset).Status == 0
    assert association.send_c_echo().Status == 0
    association.release()
    assert len(left_to_the_library) == 2
    assert len(stored(reception)) == 1


def test_a_command_in_the_middle_of_a_data_set(reception: Reception) -> None:
    with RawPeer(reception.start_node()) as peer:
        peer.associate()
        peer.send(command(1), p_data(image(1)[:40], command=False, last=False), command(2))
        assert peer.read_to_end() == [ABORT]
    assert stored(reception) == []
    wait_for(lambda: reception.incoming() == [], what="an empty incoming")


@pytest.mark.parametrize("end", [RELEASE_RQ, struct.pack(">BBI4x", 7, 0, 4)], ids=["release", "abort"])
def test_an_end_in_the_middle_of_a_data_set(reception: Reception, end: bytes) -> None:
    """What came is removed, and the library ends the association as it does otherwise."""
    with RawPeer(reception.start_node()) as peer:
        peer.associate()
        peer.send(store(1))
        assert peer.read_status() == 0
        peer.send(command(2), p_data(image(2)[:40], command=False, last=False), end)
        assert peer.read_to_end() in ([], [RELEASE_RP])
    assert stored(reception) == [uid(1)]
    wait_for(lambda: reception.incoming() == [], what="an empty incoming")


@pytest.mark.parametrize(
    "value",
    [
        struct.pack(">I", 1) + b"\1",
        struct.pack(">I", 2**31) + b"\1\0" + bytes(100),
        struct.pack(">I", 8) + b"\3\0" + bytes(6),
        b"\0\0\0",
    ],
    ids=["no control header", "longer than its PDU", "another context", "half a head"],
)
def test_values_that_are_no_fragments(reception: Reception, value: bytes) -> None:
    with RawPeer(reception.start_node()) as peer:
        peer.associate()
        peer.send(command(1), struct.pack(">BBI", 4, 0, len(value)) + value)
        assert peer.read_to_end() == [ABORT]
    assert stored(reception) == []
    wait_for(lambda: reception.incoming() == [], what="an empty incoming")


def test_a_refusal_has_its_reason(reception: Reception) -> None:
    """Status, Error Comment and the UIDs of the request, as the library would write them (PS3.7 section 9.3.1.2)."""
    with RawPeer(reception.start_node()) as peer:
        peer.associate()
        peer.send(command(1), p_data(image(2), command=False, last=True))
        kind, content = peer.read()
    assert kind == P_DATA
    assert struct.pack("<HHIH", 0, 0x0900, 2, 0xA900) in content
    assert b"the SOP Instance UID of the data set is not that of the request"[:64] in content
    assert uid(1).encode() in content and CT.encode() in content


@pytest.mark.parametrize("mark", [pytest.param(None, marks=needs_dcmtk)])
def test_a_scanner(reception: Reception, left_to_the_library: list[int], tmp_path: Path, mark: None) -> None:
    """dcmtk, with images of many PDUs each; the bytes of the data sets are those that were sent."""
    paths = write_datasets(ct_series(ct_voxels(5, 512, 512)), tmp_path / "images")
    assert storescu(reception.start_node(), paths)
    assert left_to_the_library == []
    sent = {dcmread(path).SOPInstanceUID: dcmread(path) for path in paths}
    assert sorted(sent) == sorted(stored(reception))
    for (path,) in reception.rows("SELECT path FROM instance"):
        found = dcmread(reception.spool.root / path)
        assert found == sent[found.SOPInstanceUID]
