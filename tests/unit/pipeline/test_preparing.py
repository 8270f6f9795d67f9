"""Series are prepared while their images arrive: the same tensors, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import JPEGLSLossless

from appliance.errors import UnsuitableImage
from appliance.imaging.decoders import Decoders
from appliance.journal.journal import Journal
from appliance.journal.records import Assessment, ClaimedJob, ReceivedInstance
from appliance.modelrepo.repository import ModelRepository
from appliance.observability.metrics import Metrics
from appliance.pipeline.model import Model
from appliance.pipeline.model_thread import ModelThread
from appliance.pipeline.preparing import Preparer
from appliance.spool.spool import Spool
from tests.conftest import REPOSITORY
from tests.support.dicom_factory import Stack, ct_series, ct_voxels
from tests.support.volume_package import write_volume_package
from tests.support.waiting import wait_for

SLICES = 24
ATTRIBUTES = {"Modality": "CT", "BodyPartExamined": "HEAD"}


class Site:
    """A journal and a spool that images come into, and a worker's preparer with one model."""

    def __init__(self, root: Path) -> None:
        self.journal, self.spool, self.metrics = Journal(root / "journal.sqlite3"), Spool(root / "spool"), Metrics()
        write_volume_package(root / "engines", REPOSITORY / "engines" / "ct-head-brain" / "1.0.0")
        package = ModelRepository(root / "engines", root / "weights").find("dense")
        self.model = ModelThread(Model(package, threads=1, cache=root / "cache"))
        self.decoders = Decoders(2)
        self.failed = threading.Event()
        self.idle = True
        self.preparer = self.make(512 << 20)

    def make(self, max_bytes: int, share: int = 0, shares: int = 1) -> Preparer:
        return Preparer(
            self.journal, self.spool, self.decoders, self.metrics, share=share, shares=shares, max_bytes=max_bytes,
            models=lambda: [self.model], is_idle=lambda: self.idle, on_fatal=self.failed.set,
        )  # fmt: skip

    def receive(self, datasets: Sequence[Dataset], damage: int | None = None) -> None:
        """Take images in; the pixels of one of them may be damaged."""
        for number, dataset in enumerate(datasets):
            path = self.spool.instance_path("1.2", "1.2.3", dataset.SOPInstanceUID)
            path.parent.mkdir(parents=True, exist_ok=True)
            dataset.save_as(path, enforce_file_format=True)
            content = path.read_bytes()
            if number == damage:
                start = content.rindex(b"\xff\xd8\xff")
                content = content[: start + 4] + bytes(len(content) - start - 12) + content[-8:]
                path.write_bytes(content)
            self.journal.instances.register(
                ReceivedInstance(
                    study_instance_uid="1.2", series_instance_uid="1.2.3", sop_instance_uid=dataset.SOPInstanceUID,
                    sop_class_uid=dataset.SOPClassUID, transfer_syntax_uid=dataset.file_meta.TransferSyntaxUID,
                    frames=1, attributes=ATTRIBUTES, path=self.spool.relative(path), bytes=len(content),
                    sha256=hashlib.sha256(content).hexdigest(), source="dicom", received_at=time.time(),
                ),
                [], stable_age_s=30, settle_s=1.0,
            )  # fmt: skip

    def held(self) -> float:
        return float(self.metrics.prepared_bytes._value.get())

    def wait_until_in_place(self) -> None:
        count = len(self.journal.following.images(1, 0))

        def in_place() -> bool:
            return any(held.in_place and len(held.images) == count for held in list(self.preparer._held.values()))

        wait_for(in_place, timeout_s=30, what="the series to be in place")

    def complete(self) -> ClaimedJob:
        """Call the series complete and claim its job."""
        later = time.time() + 60
        (series,) = self.journal.instances.due(later)
        assert self.journal.instances.complete(series, [Assessment("dense", "1.0.0", None)], later) == 1
        job = self.journal.jobs.claim("worker-0", later, 60)
        assert job is not None
        return job

    def finish(self, job: ClaimedJob) -> None:
        """End a job: that of the next revision waits for it."""
        self.journal.jobs.unsuitable(job, "worker-0", time.time(), "reason", "message", {})

    def tensor(self, job: ClaimedJob) -> np.ndarray:
        return self.preparer.load(job, self.model)[1].tensor

    def plain_tensor(self, job: ClaimedJob) -> np.ndarray:
        loaded = Model.load(self.model._model, [self.spool.absolute(path) for path, _ in job.images])
        return self.model.prepare(loaded.image).tensor

    def jobs(self, outcome: str) -> float:
        return float(self.metrics.prepared_jobs.labels("dense", outcome)._value.get())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.preparer.stop()
    made.decoders.close()
    made.model.close()
    made.model.join(10)
    made.journal.close()
    assert not made.failed.is_set()


def head(syntax: str | None = None) -> list[Dataset]:
    """A series that the model wants; every second slice comes first."""
    datasets = ct_series(ct_voxels(SLICES, 96, 96), Stack(spacing_mm=(5.0, 1.25, 1.25)))
    for dataset in datasets:
        if syntax is not None:
            dataset.compress(syntax, generate_instance_uid=False)
    return datasets[::2] + datasets[1::2]


@pytest.mark.parametrize("syntax", [None, JPEGLSLossless])
def test_the_network_gets_the_same_as_without(syntax: str | None, site: Site) -> None:
    site.preparer.start()
    site.receive(head(syntax))
    site.wait_until_in_place()
    job = site.complete()
    tensor = site.tensor(job)
    assert np.array_equal(tensor, site.plain_tensor(job))
    assert site.jobs("prepared") == 1
    wait_for(lambda: site.held() == 0, timeout_s=10, what="the memory to be freed")


def test_an_image_that_comes_late_is_in_the_result(site: Site) -> None:
    site.preparer.start()
    images = head()
    site.receive(images[:-1])
    site.wait_until_in_place()
    site.receive(images[-1:])
    job = site.complete()
    assert len(job.images) == SLICES
    assert np.array_equal(site.tensor(job), site.plain_tensor(job))


def test_what_a_job_has_does_not_change_under_it(site: Site) -> None:
    """The next revision is put in place while the job of the one before is at work."""
    site.preparer.start()
    images = head()
    site.receive(images[:-2])
    site.wait_until_in_place()
    site.receive(images[-2:-1])  # in the same memory
    site.wait_until_in_place()
    job = site.complete()
    loaded, _ = site.preparer.load(job, site.model)
    before = np.array(loaded.image.voxels)
    site.receive(images[-1:])
    site.wait_until_in_place()
    site.finish(job)
    again = site.complete()
    assert np.array_equal(site.tensor(again), site.plain_tensor(again))
    assert np.array_equal(loaded.image.voxels, before)
    plain = Model.load(site.model._model, [site.spool.absolute(path) for path, _ in job.images])
    assert np.array_equal(plain.image.voxels, before)


def test_an_image_after_completion_makes_the_next_revision(site: Site) -> None:
    """Each revision is made of its own images."""
    site.preparer.start()
    images = head()
    site.receive(images[:-1])
    site.wait_until_in_place()
    job = site.complete()
    assert (job.revision, len(job.images)) == (1, SLICES - 1)
    assert np.array_equal(site.tensor(job), site.plain_tensor(job))
    site.finish(job)
    site.receive(images[-1:])
    job = site.complete()
    assert (job.revision, len(job.images)) == (2, SLICES)
    assert np.array_equal(site.tensor(job), site.plain_tensor(job))


def test_an_image_that_cannot_be_decoded_is_explained_by_its_job(site: Site) -> None:
    site.preparer.start()
    site.receive(head(JPEGLSLossless), damage=3)
    site.wait_until_in_place()
    job = site.complete()
    with pytest.raises(UnsuitableImage) as refusal:
        site.tensor(job)
    assert refusal.value.reason == "undecodable"


def test_a_full_memory_prepares_nothing_and_changes_nothing(site: Site) -> None:
    site.preparer = site.make(1 << 16)
    site.preparer.start()
    site.receive(head())
    wait_for(lambda: site.preparer._held, timeout_s=20, what="the series to be followed")
    job = site.complete()
    assert site.held() <= 1 << 16
    assert np.array_equal(site.tensor(job), site.plain_tensor(job))
    assert site.jobs("late") == 1


def test_other_bytes_are_read_again(site: Site) -> None:
    """What is in memory counts for the data set that it was made of, and for no other under its name."""
    site.preparer.start()
    site.receive(head())
    site.wait_until_in_place()
    job = site.complete()
    path, _ = job.images[0]
    changed = next(dataset for dataset in head() if site.spool.absolute(path).stem == dataset.SOPInstanceUID)
    changed.RescaleIntercept = "-1"
    changed.save_as(site.spool.absolute(path), enforce_file_format=True)
    object.__setattr__(job, "images", ((path, "another"), *job.images[1:]))
    assert np.array_equal(site.tensor(job), site.plain_tensor(job))


def test_while_a_network_runs_nothing_is_put_in_place(site: Site) -> None:
    site.idle = False
    site.preparer.start()
    site.receive(head())
    wait_for(lambda: site.held() > 0, timeout_s=20, what="images to be read")
    (followed,) = site.preparer._held.values()
    assert not followed.in_place
    site.idle = True
    site.wait_until_in_place()


def test_workers_share_the_series(site: Site) -> None:
    (series,) = (site.receive(head()), site.journal.following.arriving(1, 2))[1]
    assert site.journal.following.arriving(0, 2) == []
    assert (series.series_id, series.image_count, series.ended) == (1, SLICES, False)
