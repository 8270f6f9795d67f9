"""Images through the node and out again to real PACS: byte by byte, once, and all kinds on one association."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, build_context

from appliance.config.settings import DicomDestination, FolderDestination, Forward
from tests.support.dicom_factory import Subject, chest_pixels, ct_series, ct_voxels, radiograph, write_datasets
from tests.support.outbox import Outbox, folder, pacs
from tests.support.peers import SC, SEG, SR, DcmtkStoreScp, FakePacs, Orthanc, needs_dcmtk, needs_orthanc
from tests.support.ports import free_port
from tests.support.reception import Reception
from tests.support.result_files import data_set_bytes
from tests.support.scanner import storescu
from tests.support.waiting import wait_for

CT, DX = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1.1"
COMPRESSED = {
    RLELossless: "pydicom",
    JPEGLSLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
}


class Way:
    """A node, an outbox on the same state folder, and what is asked of them."""

    def __init__(self, root: Path, *destinations: DicomDestination | FolderDestination) -> None:
        self.reception = Reception(root, destinations=destinations)
        self.outbox = Outbox(root, journal=self.reception.layout.journal)
        self.port = self.reception.start_node()

    def close(self) -> None:
        """Stop both; neither may have failed."""
        self.reception.stop()
        self.outbox.close()
        assert not self.reception.fatal.is_set()

    def send(self, datasets: Sequence[Dataset], calling: str = "SCANNER") -> None:
        """Send images to the node, each in its own transfer syntax, on one association."""
        entity = AE(calling)
        for dataset in datasets:
            context = build_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
            if context not in entity.requested_contexts:
                entity.requested_contexts = [*entity.requested_contexts, context]
        association = entity.associate("127.0.0.1", self.port, ae_title="APPLIANCE")
        for dataset in datasets:
            assert association.send_c_store(dataset).Status == 0x0000
        association.release()

    def kept(self) -> list[bytes]:
        """The data sets in the spool, sorted."""
        return sorted(map(data_set_bytes, self.reception.spool.instances.rglob("*.dcm")))


def forwarding(port: int, *modalities: str, name: str = "pacs", timeout_s: float = 5.0) -> DicomDestination:
    """A PACS that gets images of these modalities; all of them where none is named."""
    forward = Forward(modalities=list(modalities) or None)
    return pacs(port, name, timeout_s=timeout_s).model_copy(update={"forward": forward})


@pytest.fixture
def ways() -> Iterator[list[Way]]:
    ways: list[Way] = []
    yield ways
    for way in ways:
        way.close()


def slices(count: int, seed: str = "1") -> list[Dataset]:
    return ct_series(ct_voxels(count, 32, 32), subject=Subject(seed=seed))


def compressed(seed: str, syntax: str) -> Dataset:
    (dataset,) = slices(1, seed)
    dataset.compress(syntax, encoding_plugin=COMPRESSED[syntax], generate_instance_uid=False)
    return dataset


class TestDcmtk:
    pytestmark = needs_dcmtk

    def test_what_was_received_arrives_byte_by_byte(self, tmp_path: Path, ways: list[Way]) -> None:
        with DcmtkStoreScp(tmp_path / "pacs") as scp:
            way = Way(tmp_path / "state", forwarding(scp.port))
            ways.append(way)
            way.outbox.sender(forwarding(scp.port))
            files = write_datasets([*slices(20), radiograph(chest_pixels(500, 400), "DX")], tmp_path / "images")
            assert storescu(way.port, files)
            wait_for(lambda: len(scp.files()) == 21 and way.outbox.are_delivered(), 20, what="the images")
            assert sorted(map(data_set_bytes, scp.files())) == sorted(map(data_set_bytes, files)) == way.kept()

    def test_a_pacs_of_implicit_vr_only_gets_the_same_elements(self, tmp_path: Path, ways: list[Way]) -> None:
        with DcmtkStoreScp(tmp_path / "pacs", "+xi") as scp:
            way = Way(tmp_path / "state", forwarding(scp.port))
            ways.append(way)
            images = [*slices(2), radiograph(chest_pixels(500, 400), "DX")]
            way.send(images)
            way.outbox.sender(forwarding(scp.port))
            wait_for(way.outbox.are_delivered, what="the images")
            received = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, scp.files())}
        for image in images:
            arrived = received[image.SOPInstanceUID]
            assert arrived.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
            assert [(element.tag, element.value) for element in arrived] == [
                (element.tag, element.value) for element in image if element.tag.group != 2
            ]

    def test_an_image_that_comes_twice_leaves_once(self, tmp_path: Path, ways: list[Way]) -> None:
        files = write_datasets(slices(3), tmp_path / "images")
        with DcmtkStoreScp(tmp_path / "pacs") as scp:
            way = Way(tmp_path / "state", forwarding(scp.port))
            ways.append(way)
            assert storescu(way.port, files)
            assert storescu(way.port, files)
            assert way.outbox.states() == ["queued"] * 3
            way.outbox.sender(forwarding(scp.port))
            wait_for(way.outbox.are_delivered, what="the images")

    def test_a_syntax_that_the_pacs_does_not_take_fails_at_once_and_the_others_go_on(
        self, tmp_path: Path, ways: list[Way]
    ) -> None:
        with DcmtkStoreScp(tmp_path / "pacs") as scp:
            way = Way(tmp_path / "state", forwarding(scp.port))
            ways.append(way)
            way.send([*slices(1, "1"), compressed("2", JPEG2000Lossless), *slices(1, "3")])
            way.outbox.sender(forwarding(scp.port))
            wait_for(lambda: way.outbox.states() == ["delivered", "failed", "delivered"], what="the others")
        message = way.outbox.rows()[1]["message"]
        assert "does not take CT Image Storage in JPEG 2000 Image Compression (Lossless Only)" in message
        assert "or ask for less in the settings (forward); then: appliance requeue --deliveries" in message
        assert way.outbox.rows()[1]["attempts"] == 1


class TestOrthanc:
    pytestmark = needs_orthanc

    def test_compressed_images_of_each_kind_on_one_association(self, tmp_path: Path, ways: list[Way]) -> None:
        with Orthanc(tmp_path / "orthanc", ae_title="PACS") as orthanc:
            destination = forwarding(orthanc.port, timeout_s=20)
            way = Way(tmp_path / "state", destination)
            ways.append(way)
            images = [compressed(str(seed), syntax) for seed, syntax in enumerate(COMPRESSED)]
            way.send([*images, *slices(2, "plain"), radiograph(chest_pixels(50, 40), "DX")])
            way.outbox.sender(destination)
            wait_for(way.outbox.are_delivered, 30, what="the images")
            held = [orthanc.file(identifier) for identifier in orthanc.instances()]
        files = [tmp_path / f"{index}.dcm" for index in range(len(held))]
        for path, content in zip(files, held, strict=True):
            path.write_bytes(content)
        assert sorted(map(data_set_bytes, files)) == way.kept()


def test_each_kind_gets_its_context_on_one_association(tmp_path: Path, ways: list[Way]) -> None:
    syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, *COMPRESSED]
    with FakePacs(sop_classes=[CT, DX], transfer_syntaxes=syntaxes) as peer:
        way = Way(tmp_path / "state", forwarding(peer.port))
        ways.append(way)
        images = [compressed(str(seed), syntax) for seed, syntax in enumerate(COMPRESSED)]
        way.send([*images, *slices(2, "plain"), radiograph(chest_pixels(50, 40), "DX")])
        way.outbox.sender(forwarding(peer.port))
        wait_for(way.outbox.are_delivered, what="the images")
        assert peer.associations == 1
        assert [syntax for _, syntax, _ in peer.received] == [*COMPRESSED, *[ExplicitVRLittleEndian] * 3]
        assert sorted(content for _, _, content in peer.received) == way.kept()

        way.send([compressed("late", JPEGLSLossless)])
        wait_for(lambda: len(peer.received) == 7, what="the next one")
        assert peer.associations == 1, "what was offered once is there for the next"


def test_only_to_whom_asks_for_the_modality(tmp_path: Path, ways: list[Way]) -> None:
    destinations = [forwarding(104, "DX", name="dx"), forwarding(104, name="all"), pacs(104, "none")]
    way = Way(tmp_path, *destinations)
    ways.append(way)
    way.send([*slices(2), radiograph(chest_pixels(50, 40), "DX")])
    assert {name: len(way.outbox.states(name)) for name in ("dx", "all", "none")} == {"dx": 1, "all": 3, "none": 0}


@pytest.mark.parametrize("calling", ["PACS", "SCANNER"])
def test_an_archive_does_not_get_back_what_it_sent(tmp_path: Path, ways: list[Way], calling: str) -> None:
    way = Way(tmp_path, forwarding(104))
    ways.append(way)
    way.send(slices(2), calling=calling)
    assert way.outbox.states() == ([] if calling == "PACS" else ["queued"] * 2)


def test_what_has_the_uid_of_another_image_is_not_forwarded(tmp_path: Path, ways: list[Way]) -> None:
    way = Way(tmp_path, forwarding(104))
    ways.append(way)
    (image,) = slices(1)
    way.send([image])
    image.SeriesDescription = "Another one"
    way.send([image])
    assert way.reception.rows("SELECT count(*) FROM conflict") == [(1,)]
    assert way.outbox.states() == ["queued"]


def test_from_the_drop_folder(tmp_path: Path, ways: list[Way]) -> None:
    with FakePacs(sop_classes=[CT]) as peer:
        way = Way(tmp_path / "state", forwarding(peer.port))
        ways.append(way)
        way.outbox.sender(forwarding(peer.port))
        write_datasets(slices(3), way.reception.start_dropfolder() / "study")
        wait_for(lambda: len(peer.received) == 3 and way.outbox.are_delivered(), 20, what="the images")
        assert sorted(content for _, _, content in peer.received) == way.kept()


def test_into_a_folder(tmp_path: Path, ways: list[Way]) -> None:
    share = tmp_path / "share"
    share.mkdir()
    destination = folder(share).model_copy(update={"forward": Forward()})
    way = Way(tmp_path / "state", destination)
    ways.append(way)
    way.outbox.sender(destination)
    way.send(slices(3))
    wait_for(lambda: way.outbox.are_delivered("share"), what="the images")
    assert sorted(map(data_set_bytes, share.iterdir())) == way.kept()
    assert all(path.name.startswith("image-") for path in share.iterdir())


def test_results_overtake_images(tmp_path: Path, ways: list[Way]) -> None:
    port = free_port()
    way = Way(tmp_path, forwarding(port))
    ways.append(way)
    way.send(slices(5))
    uids = way.outbox.put("result", [forwarding(port)])
    with FakePacs(sop_classes=[CT, SR, SEG, SC], port=port) as peer:
        way.outbox.sender(forwarding(port))
        wait_for(way.outbox.are_delivered, what="all")
        assert peer.uids()[:3] == uids


def test_an_image_whose_bytes_changed_stays_here(tmp_path: Path, ways: list[Way]) -> None:
    with FakePacs(sop_classes=[CT]) as peer:
        way = Way(tmp_path, forwarding(peer.port))
        ways.append(way)
        way.send(slices(2))
        damaged = way.reception.spool.absolute(way.outbox.rows()[0]["path"])
        content = bytearray(damaged.read_bytes())
        content[-100] ^= 1
        damaged.write_bytes(content)
        way.outbox.sender(forwarding(peer.port))
        wait_for(lambda: way.outbox.states() == ["failed", "delivered"], what="the other one")
        assert len(peer.received) == 1
    assert "the file of the image was changed after it was committed" in way.outbox.rows()[0]["message"]
