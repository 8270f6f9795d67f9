"""Storage commitment with Orthanc as the one that asks, and with a modality for what Orthanc does not do."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import (
    CTImageStorage,
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from appliance.config.settings import Commitment, Peer, Retry
from appliance.delivery.commitment_reports import CommitmentReports
from tests.support.committing import Modality, ask, pairs, request
from tests.support.dicom_factory import Subject, ct_series, ct_voxels, write_datasets
from tests.support.peers import Orthanc, needs_orthanc
from tests.support.ports import free_port
from tests.support.reception import Reception, model
from tests.support.waiting import wait_for

TRANSACTION = "1.2.840.113.1"
SETTINGS = Commitment(wait_s=0.3, timeout_s=5, max_references=10, retry=Retry(first_s=0.05, longest_s=0.1))


# The library leaves the socket of a refused connection to the collector.
refused_connections = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    reception = Reception(tmp_path / "state", models=[model()], settle_s=20.0, commitment=SETTINGS)
    reception.assembler.start()
    reception.commitment.start()
    reception.start_node()
    yield reception
    reception.stop()
    assert not reception.fatal.is_set()


@pytest.fixture
def modality() -> Iterator[Modality]:
    modality = Modality()
    yield modality
    modality.stop()


@contextmanager
def reporting(reception: Reception, *peers: Peer, settings: Commitment = SETTINGS) -> Iterator[None]:
    reports = CommitmentReports(
        settings,
        peers,
        ae_title="APPLIANCE",
        journal=reception.journal,
        metrics=reception.metrics,
        run_folder=reception.layout.run,
        on_fatal=reception.fatal.set,
    )
    reports.start()
    yield
    reports.stop()


def port_of(reception: Reception) -> int:
    assert reception.node is not None
    return reception.node.port


def images(count: int = 3, series: int = 1) -> list[Dataset]:
    return ct_series(ct_voxels(count, 16, 16), subject=Subject(seed="committed"), series=series)


def tally(reception: Reception) -> dict[str, int]:
    return {state: n for state, n in reception.journal.overview.tally()["commitment"].items() if n}


class TestWithOrthanc:
    pytestmark = needs_orthanc

    @pytest.mark.parametrize("sent", [3, 2])
    def test_it_asks_and_is_told(self, reception: Reception, tmp_path: Path, sent: int) -> None:
        paths = write_datasets(images(), tmp_path / "ct")
        with (
            Orthanc(tmp_path / "orthanc", modalities={"appliance": ("APPLIANCE", port_of(reception))}) as orthanc,
            reporting(reception, Peer(ae_title="ORTHANC", port=orthanc.port)),
        ):
            identifiers = orthanc.upload(paths)
            orthanc.store_to("appliance", identifiers[:sent])
            body = json.dumps({"Resources": identifiers}).encode()
            answer = json.loads(orthanc.request("/modalities/appliance/storage-commitment", body))
            path = f"/storage-commitment/{answer['ID']}"

            def told() -> dict[str, object] | None:
                report: dict[str, object] = json.loads(orthanc.request(path))
                return None if report["Status"] == "Pending" else report

            report = wait_for(told)
            assert report["Status"] == ("Success" if sent == 3 else "Failure")
            assert len(report["Success"]) == sent  # type: ignore[arg-type]
            reasons = [failure["FailureReason"] for failure in report["Failures"]]  # type: ignore[attr-defined]
            assert reasons == ([] if sent == 3 else [0x0112])
            wait_for(lambda: tally(reception) == {"reported": 1})


def test_on_the_association_that_asked(reception: Reception, modality: Modality) -> None:
    datasets = images()
    with modality.association(port_of(reception)) as association:
        for dataset in datasets:
            assert association.send_c_store(dataset).Status == 0
        assert ask(association, request(TRANSACTION, pairs(datasets))) == 0
        wait_for(lambda: modality.reports)
        wait_for(lambda: tally(reception) == {"reported": 1})
        assert association.send_c_store(datasets[0]).Status == 0, "the association goes on"
    assert modality.reports == [(TRANSACTION, 1, set(pairs(datasets)), {})]


def test_on_a_new_association_in_the_role_of_the_provider(reception: Reception, modality: Modality) -> None:
    datasets = images()
    with reporting(reception, Peer(ae_title="CT1", port=modality.port)):
        with modality.association(port_of(reception)) as association:
            for dataset in datasets[:2]:
                assert association.send_c_store(dataset).Status == 0
            asked = [*pairs(datasets), ("1.2.840.10008.5.1.4.1.1.4", datasets[0].SOPInstanceUID)]
            assert ask(association, request(TRANSACTION, asked)) == 0
        wait_for(lambda: tally(reception) == {"reported": 1})
    [(transaction_uid, event_type, committed, failed)] = modality.reports
    assert (transaction_uid, event_type, committed) == (TRANSACTION, 2, set(pairs(datasets[:2])))
    assert failed == {datasets[2].SOPInstanceUID: 0x0112, datasets[0].SOPInstanceUID: 0x0119}
    assert modality.roles == [(False, True)]


def test_images_that_come_after_the_request_are_waited_for(tmp_path: Path, modality: Modality) -> None:
    settings = SETTINGS.model_copy(update={"wait_s": 60.0})
    reception = Reception(tmp_path / "state", commitment=settings)
    reception.commitment.start()
    datasets = images()
    with modality.association(reception.start_node()) as association:
        assert ask(association, request(TRANSACTION, pairs(datasets))) == 0
        for dataset in datasets:
            assert association.send_c_store(dataset).Status == 0
        wait_for(lambda: modality.reports)
    assert modality.reports == [(TRANSACTION, 1, set(pairs(datasets)), {})]
    reception.stop()


def test_a_file_that_is_missing_or_cut_short_is_not_committed(reception: Reception, modality: Modality) -> None:
    datasets = images()
    with modality.association(port_of(reception)) as association:
        for dataset in datasets:
            assert association.send_c_store(dataset).Status == 0
        first, second = (
            reception.spool.absolute(row[0])
            for row in reception.rows("SELECT path FROM instance ORDER BY path LIMIT 2")
        )
        first.unlink()
        second.write_bytes(second.read_bytes()[:-2])
        assert ask(association, request(TRANSACTION, pairs(datasets))) == 0
        wait_for(lambda: modality.reports)
    [(_, event_type, committed, failed)] = modality.reports
    assert (event_type, len(committed), sorted(failed.values())) == (2, 1, [0x0110, 0x0110])
    assert {first.stem, second.stem} == set(failed)


class TestRequests:
    def refused(self, reception: Reception, modality: Modality, information: Dataset | None, **options: object) -> int:
        with modality.association(port_of(reception)) as association:
            status = ask(association, information, **options)  # type: ignore[arg-type]
            assert association.send_c_store(images()[0]).Status == 0, "the association goes on"
        assert tally(reception) == {}
        return status

    def test_incomplete(self, reception: Reception, modality: Modality) -> None:
        without_transaction, without_instances = request("1.2", pairs(images())), request("1.2", [])
        del without_transaction.TransactionUID
        bad = request("1.2", [(CTImageStorage, "1.2.x")])
        for information in (None, without_transaction, without_instances, bad):
            assert self.refused(reception, modality, information) == 0x0115

    def test_of_another_kind(self, reception: Reception, modality: Modality) -> None:
        information = request("1.2", pairs(images()))
        assert self.refused(reception, modality, information, action_type=2) == 0x0123
        assert self.refused(reception, modality, information, instance="1.2.3") == 0x0112

    def test_in_the_context_of_another_service(self, reception: Reception, modality: Modality) -> None:
        entity = AE("CT1")
        entity.add_requested_context(ModalityPerformedProcedureStep)
        entity.add_requested_context(StorageCommitmentPushModel)
        association = entity.associate("127.0.0.1", port_of(reception), ae_title="APPLIANCE")
        status, _ = association.send_n_action(
            request("1.2", pairs(images())),
            1,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
            meta_uid=ModalityPerformedProcedureStep,
        )
        assert status.Status == 0x0118
        association.release()
        assert tally(reception) == {}

    def test_unreadable(self, reception: Reception, modality: Modality) -> None:
        """Whatever stands there: the answer is a refusal, and the association goes on."""
        generator = random.Random(4)
        readable = encode(request("1.2", pairs(images())), False, True)
        assert readable is not None
        with modality.association(port_of(reception)) as association:
            [context] = [c for c in association.accepted_contexts if c.abstract_syntax == StorageCommitmentPushModel]
            assert context.context_id is not None
            association._reactor_checkpoint.clear()  # the library's own thread would take the answers
            wait_for(lambda: association._is_paused)
            for number in range(100):
                damaged = bytearray(readable)
                for _ in range(generator.randint(1, 8)):
                    damaged[generator.randrange(len(damaged))] = generator.randrange(256)
                sent = N_ACTION()
                sent.MessageID = number + 1
                sent.RequestedSOPClassUID = StorageCommitmentPushModel
                sent.RequestedSOPInstanceUID = StorageCommitmentPushModelInstance
                sent.ActionTypeID = 1
                sent.ActionInformation = BytesIO(damaged[: generator.randint(1, len(damaged))])
                association.dimse.send_msg(sent, context.context_id)
                _, answer = association.dimse.get_msg(block=True)
                assert answer is not None and answer.Status in (0x0000, 0x0110, 0x0115)
            association._reactor_checkpoint.set()
        assert reception.metrics.commitments.labels("error")._value.get() == 0

    def test_without_room(self, tmp_path: Path, modality: Modality) -> None:
        reception = Reception(tmp_path / "full", min_free_bytes=1 << 60)
        with modality.association(reception.start_node()) as association:
            assert ask(association, request("1.2", pairs(images()))) == 0x0213
        assert tally(reception) == {}
        reception.stop()

    def test_too_many(self, reception: Reception, modality: Modality) -> None:
        many = request("1.2", [(CTImageStorage, f"1.2.{n}") for n in range(11)])
        assert self.refused(reception, modality, many) == 0x0213

    def test_repeated(self, reception: Reception, modality: Modality) -> None:
        """The same is one request, and is answered anew once it was reported; the UID serves for nothing else."""
        datasets = images()
        with modality.association(port_of(reception)) as association:
            information = request(TRANSACTION, pairs(datasets))
            assert [ask(association, information) for _ in range(2)] == [0, 0]
            assert ask(association, request(TRANSACTION, pairs(datasets[:1]))) == 0x0115
            wait_for(lambda: tally(reception) == {"reported": 1})
            for dataset in datasets:
                assert association.send_c_store(dataset).Status == 0
            assert ask(association, information) == 0
            wait_for(lambda: len(modality.reports) == 2)
        assert [report[1] for report in modality.reports] == [2, 1]

    def test_requests_that_cross_the_report(self, reception: Reception, modality: Modality) -> None:
        """A peer that asks on and on does not wait for reports; no message is taken for the answer to another."""
        datasets = images()
        transactions = [f"{TRANSACTION}.{n}" for n in range(30)]
        with modality.association(port_of(reception)) as association:
            for dataset in datasets:
                assert association.send_c_store(dataset).Status == 0
            for transaction in transactions:
                assert ask(association, request(transaction, pairs(datasets))) == 0
            wait_for(lambda: tally(reception) == {"reported": 30})
        assert sorted(report[0] for report in modality.reports) == sorted(transactions)


class TestReports:
    def test_not_answered_where_it_was_asked(self, tmp_path: Path, modality: Modality) -> None:
        """The association stays open, but takes no report: it goes out on another one."""
        settings = SETTINGS.model_copy(update={"timeout_s": 0.5})
        reception = Reception(tmp_path / "deaf", commitment=settings)
        reception.commitment.start()
        peer = Peer(ae_title="CT1", port=modality.port)
        with reporting(reception, peer, settings=settings), DeafAsker(reception.start_node()) as deaf:
            assert deaf.ask(request(TRANSACTION, pairs(images()))) == 0
            wait_for(lambda: tally(reception) == {"reported": 1})
        assert [report[1] for report in modality.reports] == [2]
        assert modality.roles == [(False, True)]
        reception.stop()

    def asked(self, reception: Reception, modality: Modality) -> None:
        with modality.association(port_of(reception)) as association:
            assert ask(association, request(TRANSACTION, pairs(images()))) == 0

    @refused_connections
    def test_a_peer_that_is_away_is_told_when_it_is_back(self, reception: Reception, modality: Modality) -> None:
        port = free_port()
        self.asked(reception, modality)
        with reporting(reception, Peer(ae_title="CT1", port=port)):
            wait_for(lambda: "no association with CT1" in (message(reception) or ""))
            later = Modality(port=port)
            wait_for(lambda: later.reports)
            wait_for(lambda: tally(reception) == {"reported": 1})
        later.stop()
        assert len(later.reports) == 1

    def test_a_peer_in_trouble_is_told_again_and_one_that_refuses_is_not(
        self, reception: Reception, modality: Modality
    ) -> None:
        teller = Modality(script=[0x0110, 0x0213, 0x0112])
        self.asked(reception, modality)
        with reporting(reception, Peer(ae_title="CT1", port=teller.port)):
            wait_for(lambda: tally(reception) == {"failed": 1})
            assert "answered the report of a storage commitment with 0x0112" in (message(reception) or "")
            assert reception.journal.commitments.requeue(0.0) == 1
            wait_for(lambda: tally(reception) == {"reported": 1})
        teller.stop()
        assert len(teller.reports) == 4

    def test_without_a_port_it_waits_and_says_so(self, reception: Reception, modality: Modality) -> None:
        self.asked(reception, modality)
        with reporting(reception, Peer(ae_title="CT1")):
            wait_for(lambda: "no port of 'CT1' is known" in (message(reception) or ""))
        assert tally(reception) == {"queued": 1}

    @refused_connections
    def test_given_up_in_the_end(self, reception: Reception, modality: Modality) -> None:
        self.asked(reception, modality)
        retry = Retry(first_s=0.05, longest_s=0.1, give_up_after_s=0.5)
        settings = SETTINGS.model_copy(update={"retry": retry})
        with reporting(reception, Peer(ae_title="CT1", port=free_port()), settings=settings):
            wait_for(lambda: tally(reception) == {"failed": 1})
        assert (message(reception) or "").startswith("given up; ")


class DeafAsker:
    """Asks on an association, and leaves what comes on it unread after that."""

    def __init__(self, port: int) -> None:
        entity = AE("CT1")
        entity.add_requested_context(StorageCommitmentPushModel)
        self._association = entity.associate("127.0.0.1", port, ae_title="APPLIANCE")

    def ask(self, information: Dataset) -> int:
        status = ask(self._association, information)
        self._association.dimse.receive_primitive = lambda primitive: None  # type: ignore[method-assign]
        return status

    def __enter__(self) -> DeafAsker:
        return self

    def __exit__(self, *error: object) -> None:
        self._association.abort()


def message(reception: Reception) -> str | None:
    return next((view.message for view in reception.journal.commitments.undone()), None)


class TestSign:
    def test_a_series_that_is_named_as_a_whole_is_complete(self, reception: Reception, modality: Modality) -> None:
        """The association stays open, and the settle time is long: it is the request that says so."""
        whole, part, single = images(3), images(3, series=2), images(1, series=3)
        with modality.association(port_of(reception)) as association:
            for dataset in [*whole, *part, *single]:
                assert association.send_c_store(dataset).Status == 0
            assert ask(association, request(TRANSACTION, pairs([*whole, *part[:2], *single]))) == 0
            wait_for(lambda: reception.rows("SELECT 1 FROM series WHERE state = 'complete'"))
            rows = reception.rows("SELECT state, sign FROM series ORDER BY series_id")
        assert rows == [("complete", "committed"), ("receiving", "stable age"), ("receiving", "stable age")]

    def test_not_while_something_is_missing(self, reception: Reception, modality: Modality) -> None:
        datasets = images(3)
        with modality.association(port_of(reception)) as association:
            for dataset in datasets[:2]:
                assert association.send_c_store(dataset).Status == 0
            assert ask(association, request(TRANSACTION, pairs(datasets))) == 0
            wait_for(lambda: modality.reports)
            assert reception.rows("SELECT state, sign FROM series") == [("receiving", "stable age")]
