"""What the line does with jobs whose steps fail: a model that misbehaves on purpose, a real journal and spool."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.config.settings import Settings
from appliance.domain.states import JobState
from appliance.errors import BackendUnavailable, ConfigurationError, DeviceLost, InferenceFailed, UnsuitableImage
from appliance.journal.journal import Journal
from appliance.journal.records import Activation, Assessment, JobView, ModelVersion, ReceivedInstance
from appliance.observability.metrics import Metrics
from appliance.pipeline import line as line_module
from appliance.pipeline.line import InferenceLine
from appliance.pipeline.roster import Lineup
from appliance.spool.spool import Spool
from tests.support.waiting import wait_for

V1, V2 = ModelVersion("1.0.0", "float32"), ModelVersion("2.0.0", "float32")


class FakeModel:
    """Stands where ``Model`` does; ``judge`` is what the test wants to happen."""

    device_bytes = 0

    def __init__(
        self,
        judge: Callable[[], Any],
        opening: Exception | None = None,
        *,
        version: str = "1.0.0",
        may_open: threading.Event | None = None,
    ) -> None:
        runtime = SimpleNamespace(time_limit_s=0.1)
        self.manifest = SimpleNamespace(
            name="model", version=version, key=f"model/{version}", runtime=runtime, input=None, scope="instance"
        )
        self._judge, self._opening, self._may_open = judge, opening, may_open
        self.opened = self.closed = 0

    def open(self, gate: object) -> str:
        if self._may_open is not None:
            assert self._may_open.wait(30)
        if self._opening is not None:
            raise self._opening
        self.opened += 1
        return "fake"

    def load(self, paths: Sequence[Path], source: object) -> Any:
        return SimpleNamespace(image=None, datasets=())

    def prepare(self, image: Any) -> Any:
        return SimpleNamespace()

    def judge(self, image: Any, stages: MutableMapping[str, float], first: object) -> Any:
        return self._judge()

    def close(self) -> None:
        self.closed += 1


class Bench:
    """A line, and the journal it works on."""

    def __init__(self, root: Path) -> None:
        self.journal = Journal(root / "journal" / "journal.sqlite3")
        self.spool = Spool(root / "spool")
        self.run = root / "run"
        self.failed = threading.Event()
        self.ready = threading.Event()
        self.metrics = Metrics()
        self.models: dict[str, FakeModel] = {}
        self._line: InferenceLine | None = None

    def queue(self, number: int = 1, version: str = "1.0.0", *, shadow: bool = False) -> None:
        now = time.time()
        instance = ReceivedInstance(
            study_instance_uid="1.2", series_instance_uid="1.2.3", sop_instance_uid=f"1.2.3.{number}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1", transfer_syntax_uid="1.2.840.10008.1.2.1", frames=1,
            attributes={}, path=f"instances/{number}.dcm", bytes=1, sha256="0", source="dicom", received_at=now,
        )  # fmt: skip
        assessment = Assessment("model", version, None, shadow)
        self.journal.instances.register(instance, [assessment], stable_age_s=30)

    def read_lineup(self) -> Lineup:
        """What the journal says is active, of the models that the test has put here by their version."""
        generation, activations = self.journal.activations.generation(), self.journal.activations.all()
        activation = activations.get("model", Activation("model", active=V1))
        return Lineup(
            generation,
            {
                ("model", found.version, shadow): (
                    f"model/{found.version}", found.precision, partial(self.models.__getitem__, found.version)
                )
                for found, shadow in ((activation.active, False), (activation.shadow, True))
                if found is not None
            },
        )  # type: ignore[arg-type]  # fmt: skip

    def gauge(self, version: str) -> float:
        """``appliance_model_ready`` of a version that was opened."""
        return float(self.metrics.model_ready.labels("model", version, "fake")._value.get())

    def start(self, *models: FakeModel, **worker: float) -> InferenceLine:
        self.models = {model.manifest.version: model for model in models}
        settings = Settings.model_validate({"worker": {"retry_s": 0, "max_attempts": 2} | worker})
        self._line = InferenceLine(
            "worker-0", settings, self.journal, self.spool, self.run, self.read_lineup, self.metrics,
            on_ready=self.ready.set, on_fatal=self.failed.set,
        )  # fmt: skip
        self._line.start()
        return self._line

    def job(self) -> JobView:
        return self.journal.overview.jobs(1)[0]

    def wait_for(self, state: JobState) -> JobView:
        wait_for(lambda: self.job().state == state, what=f"the job to be {state}")
        return self.job()

    def stop_line(self) -> None:
        if self._line is not None:
            self._line.stop()
            self._line = None

    def stop(self) -> None:
        self.stop_line()
        self.journal.close()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(line_module, "warm_up", lambda: None)
    made = Bench(tmp_path)
    yield made
    made.stop()


def raising(error: BaseException) -> Callable[[], Any]:
    def judge() -> Any:
        raise error

    return judge


def test_an_unsuitable_image_is_explained_and_not_tried_again(bench: Bench) -> None:
    bench.queue()
    bench.start(FakeModel(raising(UnsuitableImage("slice-gap", "slices are missing"))))
    job = bench.wait_for(JobState.UNSUITABLE)
    assert (job.reason, job.message, job.attempts) == ("slice-gap", "slices are missing", 1)


def test_a_failed_inference_is_tried_again_until_the_attempts_are_used_up(bench: Bench) -> None:
    bench.queue()
    bench.start(FakeModel(raising(InferenceFailed("no memory"))))
    job = bench.wait_for(JobState.FAILED)
    assert (job.reason, job.message, job.attempts) == ("InferenceFailed", "no memory", 2)


def test_a_defect_is_reported_without_its_text(bench: Bench) -> None:
    """The text of a foreign error may hold a patient's name."""
    bench.queue()
    bench.start(FakeModel(raising(ValueError("Doe^Jane"))))
    job = bench.wait_for(JobState.FAILED)
    assert job.reason == "defect"
    assert job.message is not None and job.message.startswith("ValueError at test_line.py:")
    assert "Doe" not in job.message


def test_a_full_disk_costs_no_attempt(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "_DISK_PAUSE_S", 0.05)
    errors = [OSError(errno.ENOSPC, "No space left on device")] * 5

    def judge() -> Any:
        if errors:
            raise errors.pop()
        raise UnsuitableImage("constant-image", "there is room again")

    bench.queue()
    bench.start(FakeModel(judge))
    assert bench.wait_for(JobState.UNSUITABLE).attempts == 1


def test_a_lost_device_ends_the_role_and_keeps_the_job(bench: Bench) -> None:
    bench.queue()
    bench.start(FakeModel(raising(DeviceLost("the GPU is gone"))))
    wait_for(bench.failed.is_set, what="the role to be told")
    assert bench.job().state == JobState.RUNNING
    bench.stop()
    assert bench.job().state == JobState.RUNNING  # until the next life takes it back
    assert bench.journal.jobs.recover("worker-0", time.time(), 2) == 1
    assert bench.job().state == JobState.QUEUED
    assert bench.metrics.device_losses.labels("model")._value.get() == 1


def test_a_model_that_cannot_be_opened_fails_its_jobs_with_the_reason(bench: Bench) -> None:
    bench.queue()
    bench.start(FakeModel(raising(AssertionError), BackendUnavailable("openvino is not installed")))
    job = bench.wait_for(JobState.FAILED)
    assert job.reason == "model-unusable"
    assert "openvino is not installed" in (job.message or "")
    assert bench.ready.is_set() and not bench.failed.is_set()


def test_a_model_that_never_comes_back_ends_the_role(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "_STUCK_GRACE_S", 0.1)
    release = threading.Event()
    bench.queue()
    bench.start(FakeModel(lambda: release.wait(60)), lease_s=5)
    try:
        wait_for(bench.failed.is_set, what="the role to be told")
    finally:
        release.set()


def test_the_job_of_a_worker_that_gives_no_sign_is_taken_over(bench: Bench) -> None:
    """It held its lease still when this worker started."""
    bench.queue()
    assert bench.journal.jobs.claim("worker-7", time.time(), 1.0) is not None
    bench.start(FakeModel(raising(UnsuitableImage("constant-image", "judged"))), lease_s=5)
    assert bench.wait_for(JobState.UNSUITABLE).attempts == 2


def test_who_slept_through_a_requeue_leaves_the_promised_results_alone(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The job was given up meanwhile, requeued by an operator, and done by another worker, as attempt 1 again."""
    promised = bench.spool.results / "1" / "1" / "sr.dcm"

    def judge() -> Any:
        jobs = bench.journal.jobs
        assert jobs.recover_expired(time.time() + 3600, 1) == 1
        assert jobs.requeue(1, time.time())
        again = jobs.claim("worker-1", time.time(), 60)
        assert again is not None and again.attempt == 1
        (bench.spool.results_folder(1, 1) / "sr.dcm").write_bytes(b"promised")
        jobs.succeed(again, "worker-1", time.time(), result_json="{}", results=[], destinations={}, stages={})
        return SimpleNamespace()

    bench.queue()
    bench.start(FakeModel(judge))
    wait_for(lambda: "job 1 was given to another worker" in caplog.text, what="the line to notice")
    bench.stop_line()
    assert promised.read_bytes() == b"promised"


def test_who_was_late_itself_takes_over_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the clock of the machine is set forward, the leases of all workers look as if they had run out."""
    looks: list[float] = []
    taken: list[float] = []
    times = iter([1000.0, 1000.0, 1001.0, 5000.0, 5001.0])
    line = bench.start(FakeModel(raising(AssertionError)))
    bench.stop_line()
    monkeypatch.setattr(line, "_ended", SimpleNamespace(wait=lambda _: len(looks) == 4))
    monkeypatch.setattr(line, "_jobs", SimpleNamespace(extend=lambda owner, until: looks.append(until)))
    monkeypatch.setattr(line, "_take_over", taken.append)
    monkeypatch.setattr(line_module, "time", SimpleNamespace(time=lambda: next(times), monotonic=time.monotonic))
    line._keep_leases()
    assert looks == [1060, 1061, 5060, 5061]
    assert taken == [1000, 1001, 5001]


def test_at_a_stop_what_is_in_the_model_is_finished_and_the_rest_given_back(bench: Bench) -> None:
    entered, release = threading.Event(), threading.Event()

    def judge() -> Any:
        entered.set()
        assert release.wait(30)
        raise UnsuitableImage("constant-image", "finished")

    bench.queue(1)
    bench.queue(2)
    line = bench.start(FakeModel(judge))
    assert entered.wait(30)
    wait_for(lambda: bench.job().state == JobState.RUNNING, what="the second job to be loaded")
    threading.Timer(0.2, release.set).start()
    line.stop()
    second, first = bench.journal.overview.jobs(2)
    assert (first.state, second.state) == (JobState.UNSUITABLE, JobState.QUEUED)
    assert second.attempts == 0


def unsuitable(version: str) -> Callable[[], Any]:
    """A model that says which version it is."""
    return raising(UnsuitableImage("judged", f"by {version}"))


def test_another_version_takes_over_between_two_jobs(bench: Bench) -> None:
    """The job that is in the model ends on the version that it was claimed for; the next ones are the new one's."""
    entered, release = threading.Event(), threading.Event()

    def judge() -> Any:
        entered.set()
        assert release.wait(30)
        raise UnsuitableImage("judged", "by 1.0.0")

    bench.journal.activations.activate("model", V1, time.time())
    for number in range(4):
        bench.queue(number)
    old, new = FakeModel(judge), FakeModel(unsuitable("2.0.0"), version="2.0.0")
    bench.start(old, new)
    assert entered.wait(30)
    wait_for(lambda: bench.journal.overview.jobs(4)[2].state == JobState.RUNNING, what="the second job to be loaded")
    bench.journal.activations.activate("model", V2, time.time())
    wait_for(lambda: new.opened, what="the new version to be opened while the old one is at work")
    assert old.closed == 0
    release.set()
    wait_for(lambda: bench.job().state == JobState.UNSUITABLE, what="the last job to end")
    assert [job.message for job in reversed(bench.journal.overview.jobs(4))] == ["by 1.0.0"] * 2 + ["by 2.0.0"] * 2
    assert [job.attempts for job in bench.journal.overview.jobs(4)] == [1] * 4
    wait_for(lambda: old.closed, what="the old version to be closed")
    assert (bench.gauge("1.0.0"), bench.gauge("2.0.0")) == (0, 1)


def test_jobs_wait_while_their_version_is_being_opened(bench: Bench) -> None:
    may_open = threading.Event()
    bench.journal.activations.activate("model", V1, time.time())
    new = FakeModel(unsuitable("2.0.0"), version="2.0.0", may_open=may_open)
    bench.start(FakeModel(raising(AssertionError)), new)
    assert bench.ready.wait(30)
    bench.journal.activations.activate("model", V2, time.time())
    bench.queue()
    wait_for(lambda: bench.gauge("1.0.0") == 0, what="the line to notice")
    assert bench.job().state == JobState.QUEUED
    may_open.set()
    assert bench.wait_for(JobState.UNSUITABLE).message == "by 2.0.0"


def test_a_rollback_while_the_new_version_is_still_being_opened(bench: Bench) -> None:
    may_open = threading.Event()
    bench.journal.activations.activate("model", V1, time.time())
    new = FakeModel(raising(AssertionError), version="2.0.0", may_open=may_open)
    bench.start(FakeModel(unsuitable("1.0.0")), new)
    assert bench.ready.wait(30)
    bench.journal.activations.activate("model", V2, time.time())
    wait_for(lambda: bench.gauge("1.0.0") == 0, what="the line to notice")
    bench.journal.activations.roll_back("model", time.time())
    bench.queue()
    may_open.set()
    assert bench.wait_for(JobState.UNSUITABLE).message == "by 1.0.0"
    wait_for(lambda: new.closed, what="the new version to be closed")
    assert (bench.gauge("1.0.0"), bench.gauge("2.0.0")) == (1, 0)


def test_a_shadow_is_open_already_when_it_is_activated(bench: Bench) -> None:
    bench.journal.activations.activate("model", V1, time.time())
    bench.journal.activations.shadow("model", V2, time.time())
    new = FakeModel(unsuitable("2.0.0"), version="2.0.0")
    bench.start(FakeModel(unsuitable("1.0.0")), new)
    wait_for(lambda: new.opened, what="the shadow to be opened")
    bench.journal.activations.activate("model", V2, time.time())
    bench.queue()
    assert bench.wait_for(JobState.UNSUITABLE).message == "by 2.0.0"
    assert (new.opened, new.closed) == (1, 0)


def test_a_shadow_keeps_nobody_waiting(bench: Bench) -> None:
    """Neither for the start, however long it takes to open, nor for a job; and it has one attempt at each job."""
    may_open = threading.Event()
    bench.journal.activations.activate("model", V1, time.time())
    bench.journal.activations.shadow("model", V2, time.time())
    bench.queue(1, "2.0.0", shadow=True)
    bench.queue(2)
    broken = FakeModel(raising(InferenceFailed("no memory")), version="2.0.0", may_open=may_open)
    bench.start(FakeModel(unsuitable("1.0.0")), broken)
    assert bench.ready.wait(30)
    assert bench.wait_for(JobState.UNSUITABLE).message == "by 1.0.0"
    may_open.set()
    wait_for(lambda: bench.journal.overview.jobs(2)[1].state == JobState.FAILED, what="the shadow to fail")
    assert bench.journal.overview.jobs(2)[1].attempts == 1
    counted = bench.metrics.shadow_jobs.labels("model", "failed")._value
    wait_for(lambda: counted.get() == 1, what="the failure to be counted")
    assert bench.metrics.jobs.labels("model", "failed")._value.get() == 0


def test_what_to_run_cannot_be_read_for_a_while(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.journal.activations.activate("model", V1, time.time())
    line = bench.start(FakeModel(unsuitable("1.0.0")))
    assert bench.ready.wait(30)
    read, errors = line._roster._read, [ConfigurationError("the folder of model packages is not there")]

    def failing() -> Lineup:
        if errors:
            raise errors.pop()
        return read()

    line._roster._read = failing
    bench.journal.activations.activate("model", V2, time.time())
    bench.journal.activations.roll_back("model", time.time())
    bench.queue()
    assert bench.wait_for(JobState.UNSUITABLE).message == "by 1.0.0"
    assert "jobs wait, because what to run cannot be read: the folder of model packages" in caplog.text


def test_a_model_that_could_not_be_opened_is_tried_again_when_it_is_activated_again(bench: Bench) -> None:
    bench.journal.activations.activate("model", V1, time.time())
    bench.start(FakeModel(raising(AssertionError), BackendUnavailable("the network is damaged")))
    bench.queue()
    assert "the network is damaged" in (bench.wait_for(JobState.FAILED).message or "")
    mended = FakeModel(unsuitable("1.0.0"))
    bench.models["1.0.0"] = mended
    bench.journal.activations.look_again("model", "activated again", time.time())
    wait_for(lambda: mended.opened, what="the model to be opened")
    assert bench.journal.jobs.requeue(1, time.time())
    assert bench.wait_for(JobState.UNSUITABLE).message == "by 1.0.0"
