"""``configs/README.md`` describes every setting, metric and error that there is, and no other."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics_core import Metric

from appliance import errors
from appliance.config import settings
from appliance.config.reader import read_settings
from appliance.console.collector import JournalCollector
from appliance.journal.journal import Journal
from appliance.observability.metrics import Metrics
from appliance.spool.spool import Spool
from tests.support.documents import models_in, table

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
README = (CONFIGS / "README.md").read_text()


SECTIONS = {
    "### Top level": settings.Settings,
    "### `dicom`": settings.DicomNode,
    "### `dicom.peers[]`": settings.Peer,
    "### `dropfolder`": settings.DropFolder,
    "### `assembly`": settings.Assembly,
    "### `assembly.pacs`": settings.CountingPacs,
    "### `mpps`": settings.Mpps,
    "### `mpps.ris`": settings.Ris,
    "### `commitment`": settings.Commitment,
    "### `storage`": settings.Storage,
    "### `retention`": settings.Retention,
    "### `models`": settings.Models,
    "### `worker`": settings.Worker,
    "### `destinations[] of kind dicom`": settings.DicomDestination,
    "### `destinations[] of kind folder`": settings.FolderDestination,
    "### `destinations[].forward`": settings.Forward,
    "### `destinations[].retry`, `mpps.ris.retry` and `commitment.retry`": settings.Retry,
    "### `report`": settings.Report,
    "### `console`": settings.Console,
    "### `logging`": settings.Logging,
}


@pytest.mark.parametrize("title", SECTIONS)
def test_settings(title: str) -> None:
    assert table(README, title) == set(SECTIONS[title].model_fields)


def test_every_section_is_listed() -> None:
    assert models_in(settings.Settings) == set(SECTIONS.values())


def _name(family: Metric) -> str:
    return family.name + ("_total" if family.type == "counter" else "")


def test_metrics(tmp_path: Path) -> None:
    described = table(README, "## Metrics")
    counted = {_name(family) for metric in vars(Metrics()).values() for family in metric.collect()}
    collector = JournalCollector(Journal(tmp_path / "journal" / "j"), Spool(tmp_path / "spool"), settings.Settings())
    assert described == counted | {_name(family) for family in collector.collect()}


def test_types_labels_and_words_of_metrics(tmp_path: Path) -> None:
    rows = dict(re.findall(r"^\| `(appliance_\w+)` \| (.*) \|$", README, re.MULTILINE))
    for metric in vars(Metrics()).values():
        [family] = metric.collect()
        name = _name(family)
        labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "-"
        assert rows[name] == f"{family.type} | {labels} | {family.documentation}"
    collector = JournalCollector(Journal(tmp_path / "journal" / "j"), Spool(tmp_path / "spool"), settings.Settings())
    for family in collector.collect():
        names = list(family._labelnames)  # type: ignore[attr-defined]
        labels = ", ".join(f"`{label}`" for label in names) or "-"
        assert rows[_name(family)] == f"{family.type} | {labels} | {family.documentation}"


def test_no_metric_has_a_label_that_could_identify_a_patient() -> None:
    allowed = {"source", "outcome", "sign", "model", "answer", "stage", "destination", "kind"}
    allowed |= {"version", "backend", "precision", "hold"}
    for metric in vars(Metrics()).values():
        assert set(metric._labelnames) <= allowed


def test_reasons_of_refusals() -> None:
    """They are values of a metric's label: whoever makes an alarm on one finds it here."""
    listed = set(re.findall("`([a-z-]+)`", README.partition("Reasons of refusals")[2].partition("\n\n")[0]))
    used = {
        call.args[0].value
        for source in (ROOT / "appliance" / "intake").glob("*.py")
        for call in ast.walk(ast.parse(source.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "RejectedInput"
        if isinstance(call.args[0], ast.Constant)
    }
    assert len(used) > 10
    assert listed == used | {"stored", "duplicate", "conflict", "no-room", "disk-error", "error"}


def test_errors() -> None:
    classes = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.ApplianceError)
    }
    assert table(README, "## Errors") == set(classes)
    for name, error in classes.items():
        words = (error.__doc__ or "").partition("\n")[0]
        assert f"| `{name}` | {error.exit_code} | {'yes' if error.retryable else 'no'} | {words} |" in README


def test_the_shipped_configuration_is_the_defaults() -> None:
    assert read_settings(CONFIGS / "appliance.yaml") == settings.Settings()


def test_what_is_commented_out_in_the_shipped_configuration_is_sound(tmp_path: Path) -> None:
    """Uncommenting every example gives a valid file."""
    text = (CONFIGS / "appliance.yaml").read_text()
    text = re.sub(r"^destinations: \[\]$", "destinations:", text, flags=re.MULTILINE)
    text = re.sub(r"^  peers: \[\]$", "  peers:", text, flags=re.MULTILINE)
    text = re.sub(r"^( *)# ((- |  )*[a-z_]+:( .*)?)$", r"\1\2", text, flags=re.MULTILINE)
    text = re.sub(r" # default.*$", "", text, flags=re.MULTILINE)
    path = tmp_path / "appliance.yaml"
    path.write_text(text)
    read = read_settings(path)
    assert {destination.kind for destination in read.destinations} == {"dicom", "folder"}
    assert read.dicom.peers and read.models.active and read.state_dir
    assert yaml.safe_load(text)["models"]["folder"]
