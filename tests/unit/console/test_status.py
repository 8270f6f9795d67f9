"""The status, as values and as the page that somebody reads at 3 a.m."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from appliance.console.status import render_status, status_of
from appliance.journal.records import Assessment, ModelVersion
from appliance.journal.retention import Limits
from appliance.spool.spool import Spool
from appliance.version import __version__
from tests.unit.console.conftest import ROLES, Bench
from tests.unit.journal.makers import YES, claim, complete, queue_job, received, register, succeed


def status(bench: Bench) -> dict[str, Any]:
    return status_of(bench.journal, Spool(bench.layout.spool), bench.settings, bench.layout)


def text(bench: Bench) -> str:
    return render_status(status(bench))


def test_an_idle_appliance(bench: Bench) -> None:
    with bench.running(*ROLES):
        lines = text(bench).splitlines()
    assert lines[:3] == [f"appliance {__version__}", "", "All is well."]
    assert [line.split() for line in lines[5:8]] == [[name, *"00000", "-"] for name in ("series", "job", "delivery")]


def test_what_was_deleted(bench: Bench) -> None:
    register(bench.journal, received("1", at=100))
    complete(bench.journal, 1000, [])
    [study] = bench.journal.retention.studies(2000)
    assert bench.journal.retention.delete_series(study, Limits(2000, 2000), reason="space", now=3000)
    assert "Oldest     -; deleted after 30 day(s), once nothing needs them" in text(bench)
    assert "Deleted    1 study(s), 1 instance(s), 0 MiB for their space" in text(bench)
    [deletion] = status(bench)["retention"]["newest_deletions"]
    assert deletion["reason"] == "space" and not {"1.2", "1.2.3"} & set(map(str, deletion.values()))


def test_it_is_plain_json(bench: Bench) -> None:
    queue_job(bench.journal, "1")
    succeed(bench.journal, claim(bench.journal))
    found = status(bench)
    assert json.loads(json.dumps(found)) == found


def test_roles_that_do_not_run_come_first(bench: Bench) -> None:
    assert text(bench).splitlines()[2:5] == [f"DOWN   {role}: not running" for role in ROLES]


def test_a_failed_delivery_says_why_and_what_to_do(bench: Bench) -> None:
    queue_job(bench.journal, "1")
    succeed(bench.journal, claim(bench.journal), kinds=("sr", "seg"), destinations=("pacs",))
    for delivery in bench.journal.deliveries.claim("pacs", 220, 10):
        bench.journal.deliveries.fail(delivery.delivery_id, 230, 0xC000, "the PACS answered 0xC000")
    with bench.running(*ROLES):
        assert (
            "FAILED 2 delivery(s) to pacs: the PACS answered 0xC000. "
            "Mend it, then: appliance requeue --deliveries --destination pacs" in text(bench)
        )


def test_a_destination_that_is_down_is_seen_however_much_joins_its_queue(bench: Bench) -> None:
    now = time.time()
    queue_job(bench.journal, "1")
    succeed(bench.journal, claim(bench.journal), now=now - 7000, kinds=("sr",), destinations=("share",))
    [delivery] = bench.journal.deliveries.claim("share", now, 1)
    bench.journal.deliveries.postpone(delivery.delivery_id, now + 60, None, "cannot connect to 192.0.2.20:104")
    queue_job(bench.journal, "2")
    succeed(bench.journal, claim(bench.journal), now=now, kinds=("sr",), destinations=("share",))
    with bench.running(*ROLES):
        assert re.search(r"WAITS  2 delivery\(s\) to share for 11\d min: cannot connect to 192.0.2.20:104", text(bench))


def test_results_for_a_destination_that_was_taken_from_the_settings_are_not_all_well(bench: Bench) -> None:
    """No sender looks after them, so no message tells of them: a renamed destination has results wait for ever."""
    queue_job(bench.journal, "1")
    succeed(bench.journal, claim(bench.journal), kinds=("sr", "seg"), destinations=("old-pacs", "share"))
    with bench.running(*ROLES):
        page = text(bench)
    assert "All is well." not in page
    assert "WAITS  2 delivery(s) to old-pacs, which is no longer in the settings: nobody sends them. Name it" in page
    assert "share" not in page


def test_a_failed_job_says_why_and_what_to_do(bench: Bench) -> None:
    queue_job(bench.journal, "1")
    bench.journal.jobs.fail(
        claim(bench.journal), "worker-0", 210, "defect", "KeyError at x.py:1; report it", retry_at=None, max_attempts=3
    )
    with bench.running(*ROLES):
        page = text(bench)
    assert "FAILED 1 job(s). Mend the cause, then: appliance requeue --job N\n" in page
    assert page.count("KeyError at x.py:1; report it") == 1


def test_failed_jobs_are_named_even_when_many_newer_ones_went_well(bench: Bench) -> None:
    """``requeue --job N`` needs the number."""
    queue_job(bench.journal, "1")
    job = claim(bench.journal)
    bench.journal.jobs.fail(job, "worker-0", 210, "defect", "why it failed", retry_at=None, max_attempts=3)
    for number in range(25):
        queue_job(bench.journal, f"2.{number}")
    assert f"       job {job.job_id}, brain/1.0.0: why it failed\n" in text(bench)


def test_an_image_that_a_model_cannot_judge_is_no_failure(bench: Bench) -> None:
    """Nothing is broken: it is explained and needs nobody."""
    queue_job(bench.journal, "1")
    bench.journal.jobs.unsuitable(claim(bench.journal), "worker-0", 210, "gap", "a slice is missing", {})
    with bench.running(*ROLES):
        page = text(bench)
    assert "All is well." in page
    assert "a slice is missing" in page
    [line] = [line for line in page.splitlines() if line.startswith("job")]
    assert line.split() == ["job", "0", "0", "0", "1", "0", "-"]


def test_what_was_kept_apart_is_named(bench: Bench) -> None:
    instance = register(bench.journal, received("1.1"))
    bench.journal.instances.add_conflict(instance.instance_id, "x", "conflicts/x", "dicom", 100)
    bench.journal.instances.add_rejection("not-dicom", "it is a text", "rejected/a", "dropfolder", 100)
    page = text(bench)
    assert "NOTE   1 instance(s) came with the UID of another" in page
    assert "NOTE   1 file(s) could not be taken and lie in spool/rejected" in page
    assert "the newest: it is a text" in page


def test_series_with_their_sign_revision_and_late_images(bench: Bench) -> None:
    register(bench.journal, received("1.1", at=time.time() - 60, announced=3))
    complete(bench.journal, time.time())
    register(bench.journal, received("1.2", at=time.time(), announced=3))
    register(bench.journal, received("2.1", series="2", at=time.time() - 60))
    complete(bench.journal, time.time())
    page = text(bench)
    assert "       1 receiving                         2 image(s), 1 late, 1 missing, revision 2, 0 s ago" in page
    assert "       2 complete by stable age            1 image(s), 60 s ago" in page
    assert status(bench)["series"][1] == {
        "series": 1,
        "state": "receiving",
        "sign": "stable age",
        "revision": 2,
        "images": 2,
        "late": 1,
        "missing": 1,
        "age_seconds": pytest.approx(0.0, abs=5),
    }


def test_messages_that_the_ris_does_not_take_say_why_and_what_to_do(bench: Bench) -> None:
    steps, messages = bench.journal.procedure_steps, bench.journal.step_messages
    steps.create("1.1", b"", time.time(), send_on=True)
    assert "WAITS  1 message(s) about procedure steps to the RIS, which is no longer in the settings" in text(bench)
    message = messages.begin(time.time())
    assert message is not None
    messages.fail(message.step_message_id, time.time(), 0x0106, "it answered 0x0106")
    assert (
        "FAILED 1 message(s) about procedure steps to the RIS: it answered 0x0106. Mend it, then: "
        "appliance requeue --procedure-steps" in text(bench)
    )


def test_reports_of_commitments_that_do_not_get_through_say_why_and_what_to_do(bench: Bench) -> None:
    commitments, now = bench.journal.commitments, time.time()
    number = commitments.ask("1.1", [], ae_title="CT1", address="192.0.2.1", judge_at=now, now=now)
    assert number is not None
    commitments.judged(number, [], now)
    assert "storage commitments" not in text(bench), "it has not been tried"
    commitments.delay(("CT1", "192.0.2.1"), now, 0.0, "no association with CT1")
    assert "WAITS  1 report(s) of storage commitments to CT1 for 0 s: no association with CT1" in text(bench)
    commitments.fail(number, now, 0x0112, "it answered 0x0112")
    assert (
        "FAILED 1 report(s) of storage commitments to CT1: it answered 0x0112. Mend it, then: "
        "appliance requeue --commitments" in text(bench)
    )


def test_why_models_did_not_want_images(bench: Bench) -> None:
    for number in range(3):
        register(
            bench.journal, received(f"1.{number}"), [Assessment("lung", "1.0.0", "Modality is CT, wants CR or DX")]
        )
    page = text(bench)
    assert page.count("  lung: Modality is CT, wants CR or DX") == 1


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "0 s"),
        (119, "119 s"),
        (121, "2 min"),
        (7100, "118 min"),
        (7300, "2.0 h"),
        (172900, "2.0 d"),
        (1e6, "11.6 d"),
    ],
)
def test_durations_as_people_read_them(bench: Bench, seconds: float, shown: str) -> None:
    queue_job(bench.journal, "1", at=time.time() - seconds)
    [line] = [line for line in text(bench).splitlines() if line.startswith("job")]
    assert line.endswith(f"   {shown}")


def test_nothing_in_it_identifies_a_patient(bench: Bench) -> None:
    """No UID, no attribute of an image: both pages may be sent to a vendor as they are."""
    uid = "1.2.826.0.1.3680043.8.498"
    attributes = {"StudyDescription": "DOE^JOHN", "SeriesDescription": "DOE^JOHN"}
    register(bench.journal, received(f"{uid}.3", series=f"{uid}.2", study=f"{uid}.1", attributes=attributes), [YES])
    succeed(bench.journal, claim(bench.journal))
    for page in (json.dumps(status(bench)), text(bench)):
        assert uid not in page
        assert "DOE" not in page


def test_it_fits_a_terminal(bench: Bench) -> None:
    queue_job(bench.journal, "1")
    claim(bench.journal)
    assert max(map(len, text(bench).splitlines())) <= 100


def test_versions_and_a_shadow_that_fails_without_an_alarm(bench: Bench) -> None:
    activations = bench.journal.activations
    activations.activate("brain", ModelVersion("1.0.0", "float32"), 100)
    activations.activate("lung", ModelVersion("2.0.0", "float32"), 100)
    activations.shadow("brain", ModelVersion("1.1.0", "float16"), 100)
    activations.deactivate("lung", 101)
    register(bench.journal, received("1.3"), [Assessment("brain", "1.1.0", None, shadow=True)])
    bench.journal.jobs.fail(claim(bench.journal), "worker-0", 210, "defect", "why", retry_at=None, max_attempts=3)
    with bench.running(*ROLES):
        found, page = status(bench), text(bench)
    assert "All is well." in page
    assert "  brain                        1.0.0, float32; in its shadow 1.1.0, float16" in page
    assert "  lung                         not active" in page
    assert re.search(r"^shadow +0 +0 +0 +0 +1   -$", page, re.MULTILINE)
    assert re.search(r"1 failed +brain/1.1.0 .* ago, shadow$", page, re.MULTILINE)
    assert found["models"][0] == {
        "model": "brain",
        "active": {"version": "1.0.0", "precision": "float32"},
        "shadow": {"version": "1.1.0", "precision": "float16"},
        "previous": None,
    }
    assert [job["shadow"] for job in found["jobs"]] == [True]


def test_a_refused_activation_says_why_and_what_to_do(bench: Bench) -> None:
    bench.journal.activations.activate("brain", ModelVersion("1.0.0", "float32"), 100)
    bench.journal.activations.refuse("brain", ModelVersion("1.1.0", "float32"), "Dice 0.5 of Colin 27", 101)
    with bench.running(*ROLES):
        page = text(bench)
    assert "FAILED activation of brain/1.1.0: Dice 0.5 of Colin 27. What served before serves on." in page
    assert "appliance models activate brain/1.0.0" in page
