"""What every kind of destination owes the sender."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.delivery.base import Destination
from appliance.delivery.destinations import make_destination
from appliance.errors import DeliveryRefused, DeliveryRetry, DestinationUnreachable
from tests.support.outbox import folder, pacs
from tests.support.peers import FakePacs
from tests.support.ports import free_port
from tests.support.result_files import data_set_bytes, result_file, result_files

KINDS = ("dicom", "folder")


class Receiver(ABC):
    """The other end of a destination."""

    destination: Destination
    unreachable: Destination

    @abstractmethod
    def holds(self) -> list[bytes]:
        """The data sets that it has, each once, sorted."""

    @abstractmethod
    def stop(self) -> None: ...


class PacsReceiver(Receiver):
    def __init__(self, tmp_path: Path) -> None:
        self._pacs = FakePacs()
        self.destination = make_destination(pacs(self._pacs.port), "APPLIANCE")
        self.unreachable = make_destination(pacs(free_port()), "APPLIANCE")

    def holds(self) -> list[bytes]:
        return sorted({uid: content for uid, _, content in self._pacs.received}.values())

    def stop(self) -> None:
        self._pacs.stop()


class FolderReceiver(Receiver):
    def __init__(self, tmp_path: Path) -> None:
        self._folder = tmp_path / "share"
        self._folder.mkdir()
        self.destination = make_destination(folder(self._folder), "APPLIANCE")
        self.unreachable = make_destination(folder(tmp_path / "absent"), "APPLIANCE")

    def holds(self) -> list[bytes]:
        files = list(self._folder.iterdir())
        assert all(file.suffix == ".dcm" and not file.name.startswith(".") for file in files)
        return sorted(data_set_bytes(file) for file in files)

    def stop(self) -> None: ...


@pytest.fixture(params=KINDS)
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Receiver]:
    receiver = {"dicom": PacsReceiver, "folder": FolderReceiver}[request.param](tmp_path)
    yield receiver
    receiver.destination.close()
    receiver.stop()


def test_data_sets_arrive_byte_by_byte(receiver: Receiver, tmp_path: Path) -> None:
    files = [*result_files(tmp_path / "spool"), result_file(tmp_path / "spool", "sc", "large", pixels=1201)]
    receiver.destination.announce(files)

    for file in files:
        assert receiver.destination.send(file) in (None, 0x0000)

    assert receiver.holds() == sorted(data_set_bytes(file.path) for file in files)


def test_a_repeat_ends_up_there_once(receiver: Receiver, tmp_path: Path) -> None:
    file = result_file(tmp_path / "spool", "sr", "1")

    receiver.destination.send(file)
    receiver.destination.send(file)

    assert receiver.holds() == [data_set_bytes(file.path)]


def test_after_close_it_opens_again(receiver: Receiver, tmp_path: Path) -> None:
    receiver.destination.close()
    receiver.destination.send(result_file(tmp_path / "spool", "sr", "1"))
    receiver.destination.close()
    receiver.destination.close()
    receiver.destination.send(result_file(tmp_path / "spool", "sr", "2"))

    assert len(receiver.holds()) == 2


def test_an_image_that_is_gone_is_tried_again(receiver: Receiver, tmp_path: Path) -> None:
    """The receiver may just be putting it back, after a power failure."""
    gone = replace(result_file(tmp_path / "spool", "sr", "1"), kind="image")
    gone.path.rename(tmp_path / "elsewhere")
    with pytest.raises(DeliveryRetry, match="not in the spool"):
        receiver.destination.send(gone)
    (tmp_path / "elsewhere").rename(gone.path)
    receiver.destination.send(gone)
    assert len(receiver.holds()) == 1


def test_a_file_that_is_gone_is_refused_and_the_next_goes_on(receiver: Receiver, tmp_path: Path) -> None:
    gone, next_one = result_file(tmp_path / "spool", "sr", "1"), result_file(tmp_path / "spool", "sr", "2")
    gone.path.unlink()

    with pytest.raises(DeliveryRefused, match="gone from the spool"):
        receiver.destination.send(gone)
    receiver.destination.send(next_one)

    assert receiver.holds() == [data_set_bytes(next_one.path)]


@pytest.mark.parametrize("pixels", [16, 700])
@pytest.mark.parametrize("damage", ["a bit at the end", "a bit in the middle", "a byte less", "a byte more"])
def test_of_a_file_whose_bytes_changed_nothing_remains(
    receiver: Receiver, tmp_path: Path, damage: str, pixels: int
) -> None:
    file = result_file(tmp_path / "spool", "sc", "1", pixels=pixels)
    content = bytearray(file.path.read_bytes())
    match damage:
        case "a byte less":
            content.pop()
        case "a byte more":
            content.append(0)
        case _:
            content[-1 if damage == "a bit at the end" else len(content) // 2] ^= 1
    file.path.write_bytes(content)

    with pytest.raises(DeliveryRefused, match="changed after it was committed"):
        receiver.destination.send(file)

    assert receiver.holds() == []
    next_one = result_file(tmp_path / "spool", "sc", "2")
    receiver.destination.send(next_one)
    assert receiver.holds() == [data_set_bytes(next_one.path)]


def test_a_file_that_is_no_dicom_is_refused(receiver: Receiver, tmp_path: Path) -> None:
    path = tmp_path / "spool" / "noise.dcm"
    path.parent.mkdir()
    for content in (b"", b"noise", bytes(128) + b"DICM\x02\x00\x00\x00OB\x00\x00\xff\xff\xff\x7f"):
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        noise = replace(result_file(tmp_path / "spool", "sr", "1"), path=path, bytes=len(content), sha256=digest)

        with pytest.raises(DeliveryRefused, match="not a DICOM file"):
            receiver.destination.send(noise)

    assert receiver.holds() == []


def test_out_of_reach_is_said_with_what_to_do_and_no_uid(receiver: Receiver, tmp_path: Path) -> None:
    file = result_file(tmp_path / "spool", "sr", "1")

    with pytest.raises(DestinationUnreachable) as caught:
        receiver.unreachable.send(file)

    assert caught.value.mend is not None
    assert file.sop_instance_uid not in str(caught.value)


def test_after_cut_nothing_is_sent(receiver: Receiver, tmp_path: Path) -> None:
    receiver.destination.cut()

    with pytest.raises(DestinationUnreachable):
        receiver.destination.send(result_file(tmp_path / "spool", "sr", "1"))

    assert receiver.holds() == []
