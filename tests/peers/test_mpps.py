"""The MPPS SCP with a modality's messages over the network, beside the images that they list."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage, ModalityPerformedProcedureStep, ModalityPerformedProcedureStepRetrieve

from appliance.spool.group_sync import GroupSync
from tests.support.dicom_factory import Subject, ct_series, ct_voxels, write_datasets
from tests.support.peers import needs_dcmtk
from tests.support.procedure_steps import begun, change, create, ended, modality
from tests.support.reception import Reception, model
from tests.support.scanner import storescu
from tests.support.waiting import wait_for

STEP = "1.2.840.1.1"


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    reception = Reception(tmp_path / "state", models=[model()], settle_s=20.0)
    reception.assembler.start()
    yield reception
    reception.stop()
    assert not reception.fatal.is_set()


def images(count: int, series: int = 1) -> list[Dataset]:
    return ct_series(ct_voxels(count, 16, 16), subject=Subject(seed="listed"), series=series)


def send(port: int, *datasets: Dataset) -> None:
    entity = AE("CT1")
    entity.add_requested_context(CTImageStorage)
    association = entity.associate("127.0.0.1", port, ae_title="APPLIANCE")
    for dataset in datasets:
        assert association.send_c_store(dataset).Status == 0
    association.release()


def series(reception: Reception) -> list[tuple[object, ...]]:
    return reception.rows("SELECT state, sign, revision, image_count FROM series ORDER BY series_id")


def steps(reception: Reception) -> list[tuple[object, ...]]:
    return reception.rows("SELECT sop_instance_uid, state, changes FROM procedure_step")


class TestWithDcmtk:
    pytestmark = needs_dcmtk

    def test_an_exam_as_it_goes(self, reception: Reception, tmp_path: Path) -> None:
        """The step begins, two series are sent, one image each at a time, and the step ends in between."""
        port = reception.start_node()
        first, second = images(3), images(2, series=2)
        paths = write_datasets([*first, *second], tmp_path / "ct")
        with modality(port) as association:
            assert create(association, STEP, begun(first[0].StudyInstanceUID)).Status == 0
            for path in paths[:4]:
                assert storescu(port, [path])
            assert series(reception) == [("receiving", "stable age", 1, 3), ("receiving", "stable age", 1, 1)]
            assert change(association, STEP, ended([*first, *second])).Status == 0
            wait_for(lambda: series(reception)[0] == ("complete", "mpps completed", 1, 3))
            assert storescu(port, [paths[4]])
            wait_for(lambda: series(reception)[1] == ("complete", "mpps completed", 1, 2))
        assert steps(reception) == [(STEP, "completed", 1)]


def test_a_release_before_the_last_listed_image_is_not_the_end(reception: Reception) -> None:
    port = reception.start_node()
    datasets = images(4)
    with modality(port) as association:
        create(association, STEP, begun())
        assert change(association, STEP, ended(datasets)).Status == 0
    send(port, *datasets[:3])
    wait_for(lambda: reception.metrics.associations.labels("released")._value.get() == 2)
    assert reception.rows("SELECT sign FROM series") == [("stable age",)]
    send(port, datasets[3])
    wait_for(lambda: series(reception) == [("complete", "mpps completed", 1, 4)])


def test_a_discontinued_step_lists_what_there_will_be(reception: Reception) -> None:
    port = reception.start_node()
    datasets = images(2)
    send(port, *datasets)
    with modality(port) as association:
        create(association, STEP, begun())
        assert change(association, STEP, ended(datasets, "DISCONTINUED")).Status == 0
        assert steps(reception) == [(STEP, "discontinued", 1)]
    wait_for(lambda: series(reception) == [("complete", "mpps discontinued", 1, 2)])


def test_what_is_refused_and_how(reception: Reception) -> None:
    port = reception.start_node()
    with modality(port) as association:
        found = change(association, STEP, ended(images(1)))
        assert (found.Status, found.ErrorComment) == (0x0112, "no step with this UID is known")
        assert create(association, STEP, begun(Modality=None)).Status == 0x0120
        assert create(association, STEP, begun(Modality="")).Status == 0x0121
        assert create(association, STEP, begun(PerformedProcedureStepStatus="COMPLETED")).Status == 0x0106
        assert steps(reception) == []
        assert create(association, STEP, begun()).Status == 0
        assert create(association, STEP, begun()).Status == 0x0111
        assert change(association, STEP, ended()).Status == 0x0121
        assert change(association, STEP, ended(images(1), PatientID="P2")).Status == 0x0106
        assert steps(reception) == [(STEP, "in progress", 0)]
        assert change(association, STEP, ended(images(1), "IN PROGRESS")).Status == 0
        assert change(association, STEP, ended(images(1))).Status == 0
        for status in ("COMPLETED", "DISCONTINUED", "IN PROGRESS"):
            found = change(association, STEP, ended(images(1), status))
            assert (found.Status, found.ErrorID) == (0x0110, 0xA710)
            assert found.ErrorComment == "the step may no longer be updated"
    assert steps(reception) == [(STEP, "completed", 2)]
    assert reception.metrics.procedure_steps.labels("refused")._value.get() == 10


def test_another_sop_class_in_the_context_of_a_step(reception: Reception) -> None:
    port = reception.start_node()
    other, context = ModalityPerformedProcedureStepRetrieve, ModalityPerformedProcedureStep
    with modality(port) as association:
        create(association, STEP, begun())
        assert association.send_n_create(begun(), other, "1.2.9", meta_uid=context)[0].Status == 0x0118
        assert association.send_n_set(ended(images(1)), other, STEP, meta_uid=context)[0].Status == 0x0118
        # The library takes it for a storage request by its class.
        assert association.send_n_create(begun(), CTImageStorage, "1.2.9", meta_uid=context)[0].Status == 0xC000
    assert steps(reception) == [(STEP, "in progress", 0)]


def test_a_disk_that_fails_is_no_promise(reception: Reception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer waits for the journal's log to be on the disk."""
    port = reception.start_node()

    def fail(self: GroupSync) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with modality(port) as association:
        with monkeypatch.context() as patch:
            patch.setattr(GroupSync, "wait", fail)
            assert create(association, STEP, begun()).Status == 0x0213
        assert create(association, "1.2.840.1.9", begun()).Status == 0


def test_a_uid_of_our_own_where_the_modality_leaves_it_to_us(reception: Reception) -> None:
    port = reception.start_node()
    with modality(port) as association:
        status, _ = association.send_n_create(begun(), ModalityPerformedProcedureStep, None)
        assert status.Status == 0
    [(uid, state, _)] = steps(reception)
    assert (str(uid)[:5], state) == ("2.25.", "in progress")


def test_two_at_once_end_a_step_once(reception: Reception) -> None:
    port = reception.start_node()
    with modality(port) as association:
        create(association, STEP, begun())
    found: list[int] = []
    ready = threading.Barrier(4)

    def end() -> None:
        with modality(port) as association:
            ready.wait(10)
            found.append(change(association, STEP, ended(images(1))).Status)

    threads = [threading.Thread(target=end) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == [0, 0x0110, 0x0110, 0x0110]


@pytest.mark.parametrize(
    "content", [b"\x08\x00", bytes(range(256)) * 4, b"\x40\x00\x70\x02SQ\0\0\xff\xff\xff\xff" * 200]
)
def test_bytes_that_are_no_step(reception: Reception, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    port = reception.start_node()
    monkeypatch.setattr("pynetdicom.association.encode", lambda *_: content)
    with modality(port) as association:
        assert create(association, STEP, begun()).Status in (0x0110, 0x0120)
        assert create(association, STEP, begun()).Status in (0x0110, 0x0120)
    assert steps(reception) == []


def test_an_image_in_the_context_of_a_step_is_refused(reception: Reception) -> None:
    port = reception.start_node()
    [image] = images(1)
    with modality(port) as association:
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID = ModalityPerformedProcedureStep
        request.AffectedSOPInstanceUID = image.SOPInstanceUID
        request.DataSet = BytesIO(encode(image, False, True) or b"")
        association.dimse.send_msg(request, 1)
        wait_for(lambda: reception.count("sop-class") == 1)
    assert reception.rows("SELECT * FROM instance") == []


def test_a_step_with_many_images(reception: Reception) -> None:
    """A list that is longer than what other services of the node would be let say."""
    port = reception.start_node()
    datasets = []
    for number in range(20_000):
        image = Dataset()
        image.SOPClassUID = CTImageStorage
        image.SOPInstanceUID = f"1.2.840.113619.2.55.3.2831178373.200.1415927.{number}"
        image.SeriesInstanceUID = "1.2.840.113619.2.55.3.2831178373.200"
        datasets.append(image)
    with modality(port) as association:
        create(association, STEP, begun())
        assert change(association, STEP, ended(datasets)).Status == 0
    assert reception.rows("SELECT count(*) FROM expected_instance") == [(20_000,)]
