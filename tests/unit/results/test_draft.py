"""Draft reports: the same facts in each language, complete, and in nobody's name but the patient's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydicom import dcmread
from pydicom.dataset import Dataset
from pypdf import PdfReader

from appliance.domain.languages import Language
from appliance.errors import ResultError
from appliance.results.check import check_document
from appliance.results.draft import as_text, draft_of, words_of
from appliance.results.objects import write_results
from appliance.results.readback import read_comments
from appliance.results.sources import SourceImages
from tests.support.studies import REPOSITORY
from tests.unit.results.examples import Example

LANGUAGES: tuple[Language, ...] = get_args(Language)
FINDINGS = {
    "en": ["Lung, right: area 64 pixels.", "Lung, left: area 64 pixels.", "Ratio 1.00."],
    "de": ["Lunge, rechts: Fläche 64 Pixel.", "Lunge, links: Fläche 64 Pixel.", "Verhältnis 1,00."],
    "fr": ["Poumon, à droite : surface 64 pixels.", "Poumon, à gauche : surface 64 pixels.", "Rapport 1,00."],
}
PEOPLE = ("Phantom", "Test", "PHANTOM-1", "1960", "ACC-42", "Rita")


@pytest.mark.parametrize("language", LANGUAGES)
def test_findings_in_words(language: Language, dx: Example) -> None:
    measured = tuple(
        replace(finding, measurements=(replace(finding.measurements[0], value=63.7),)) for finding in dx.result.findings
    )
    result = replace(dx.result, findings=measured)
    items = [one.words for one in draft_of(result, dx.sources, language) if one.kind == "item"]
    assert items[:3] == FINDINGS[language]
    assert "A frontal view is assumed." in items and any("spacing" in item for item in items)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_parts_in_each(language: Language, mr: Example) -> None:
    paragraphs = draft_of(mr.result, mr.sources, language)
    assert [one.kind for one in paragraphs] == [one.kind for one in draft_of(mr.result, mr.sources, "en")]
    words = "\n".join(as_text(paragraphs))
    for fact in (
        "Brain volume (AI)",
        "2024",
        "12 ",
        "Example network",
        "1.2.0",
        "Example makers",
        "Not for clinical use",
    ):
        assert fact in words
    for person in PEOPLE:
        assert person not in words


def test_nothing_measured_is_said(mr: Example) -> None:
    words = as_text(draft_of(replace(mr.result, findings=(), segments=()), mr.sources, "en"))
    assert "- Nothing was measured." in words


def test_what_the_images_do_not_say_is_left_out(mr: Example) -> None:
    bare = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(bare, keyword, getattr(mr.sources.first, keyword))
    sources = replace_first(mr, bare)
    lines = as_text(draft_of(mr.result, sources, "en"))
    assert "Magnetic resonance imaging: 12 images." in lines


def replace_first(example: Example, dataset: Dataset) -> SourceImages:
    return SourceImages([dataset, *example.sources.datasets[1:]])


def _codes(part: object) -> Iterable[tuple[str, str]]:
    if isinstance(part, dict):
        if {"value", "scheme", "meaning"} <= set(part):
            yield str(part["scheme"]), str(part["value"])
        for value in part.values():
            yield from _codes(value)
    elif isinstance(part, list):
        for value in part:
            yield from _codes(value)


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_every_code_of_our_packages_has_its_term(language: Language) -> None:
    manifests = sorted((REPOSITORY / "engines").glob("*/*/manifest.yaml"))
    assert len(manifests) >= 6
    codes = {code for path in manifests for code in _codes(yaml.safe_load(path.read_text()))}
    spoken = {f"{scheme} {value}" for scheme, value in codes if scheme != "UCUM" and value != "123110"}
    assert spoken - set(words_of(language).terms) == set()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_report_carries_the_draft_and_its_language(language: Language, mr: Example, tmp_path: Path) -> None:
    context = replace(mr.context, language=language)
    (item,) = write_results(mr.result, mr.sources, context, tmp_path, ("sr",))
    report = dcmread(item.path)
    draft = report.ContentSequence[-1].ContentSequence[-1]
    assert draft.ContentSequence[0].ConceptCodeSequence[0].CodeValue == language
    assert draft.TextValue == read_comments(report)[-1]
    assert draft.TextValue.isascii() and "?" not in draft.TextValue
    assert draft.TextValue.splitlines()[0] == "Brain volume (AI)"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_document_of_its_own(language: Language, mr: Example, tmp_path: Path) -> None:
    context = replace(mr.context, language=language)
    (item,) = write_results(mr.result, mr.sources, context, tmp_path, ("pdf",))
    document = dcmread(item.path)
    content = document.EncapsulatedDocument[: document.EncapsulatedDocumentLength]
    pages = PdfReader(BytesIO(content)).pages
    assert len(pages) == 1 and len(pages[0].images) == 1
    words = " ".join(pages[0].extract_text().split())
    spoken = words_of(language)
    for expected in (
        spoken.statement,
        spoken.labels["born"],
        "Phantom, Test",
        "PHANTOM-1",
        "ACC-42",
        "Brain volume (AI)",
    ):
        assert " ".join(expected.split()) in words
    assert [source.ReferencedSOPInstanceUID for source in document.SourceInstanceSequence] == [
        uid for _, uid in mr.sources.instances
    ]


def test_names_in_other_scripts_and_none_at_all(mr: Example, tmp_path: Path) -> None:
    for name, shown in (
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou"),
        ("", "-"),
        ("Çelik^Şule", "Çelik, Sule"),
    ):
        first = Dataset()
        first.update(mr.sources.first)
        first.SpecificCharacterSet = "ISO_IR 192"
        first.PatientName = name
        folder = tmp_path / shown
        folder.mkdir()
        (item,) = write_results(mr.result, replace_first(mr, first), mr.context, folder, ("pdf",))
        text = PdfReader(BytesIO(dcmread(item.path).EncapsulatedDocument)).pages[0].extract_text()
        assert shown in " ".join(text.split())


def test_a_byte_that_changed_does_not_read_back(mr: Example, tmp_path: Path) -> None:
    (item,) = write_results(mr.result, mr.sources, mr.context, tmp_path, ("pdf",))
    meant, other = dcmread(item.path), dcmread(item.path)
    check_document(other, meant)
    other.EncapsulatedDocument = meant.EncapsulatedDocument[:-2] + b"\0\0"
    with pytest.raises(ResultError, match="does not read back"):
        check_document(other, meant)


@pytest.mark.peer
@pytest.mark.skipif(shutil.which("dcm2pdf") is None, reason="no dcm2pdf: apt install dcmtk")
def test_dcmtk_takes_the_document_out(dx: Example, tmp_path: Path) -> None:
    (item,) = write_results(dx.result, dx.sources, dx.context, tmp_path, ("pdf",))
    out = tmp_path / "report.pdf"
    subprocess.run(["dcm2pdf", item.path, out], check=True, capture_output=True)
    assert len(PdfReader(out).pages) >= 1
