"""The draft report: what a result says, in plain clinical language, for a person to review, edit and sign.

The words are data: one file for each language in ``languages/``, with a template and the terms for codes. What a model
package says in its own words (title, notes, intended use) stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from importlib import resources
from typing import Any, Final, Literal

import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from appliance.domain.codes import Code
from appliance.domain.image import ImageVolume
from appliance.domain.languages import Language
from appliance.domain.result import InferenceResult, Measurement
from appliance.results.sources import SourceImages, numbers, text

Kind = Literal["title", "heading", "item", "text"]

_MARKS: Final[tuple[tuple[str, Kind], ...]] = (("## ", "heading"), ("# ", "title"), ("- ", "item"))


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One line of a draft and what it is."""

    kind: Kind
    words: str


@dataclass(frozen=True, slots=True)
class Words:
    """One language: what ``languages/<language>.yaml`` holds."""

    code: Code
    decimal: str
    date: str
    months: tuple[str, ...]
    units: dict[str, str]
    modalities: dict[str, str]
    statement: str
    notice: str
    page: str
    labels: dict[str, str]
    terms: dict[str, str]
    template: str

    def term(self, code: Code) -> str:
        """What ``code`` is called, in the middle of a sentence."""
        return self.terms.get(f"{code.scheme} {code.value}", code.meaning)

    def value(self, measurement: Measurement) -> str:
        """A measurement with its name, such as ``volume 1469.2 ml``."""
        unit = self.units.get(measurement.unit.value, measurement.unit.value)
        number = f"{measurement.value:.{measurement.digits}f}".replace(".", self.decimal)
        return f"{self.term(measurement.concept)} {number} {unit}".rstrip()

    def day(self, moment: datetime) -> str:
        """A date."""
        return moment.strftime(self.date.replace("%b", self.months[moment.month - 1]))


@lru_cache(maxsize=8)
def words_of(language: Language) -> Words:
    """The words of a language."""
    content = resources.files("appliance.results").joinpath("languages", f"{language}.yaml").read_text("utf-8")
    data: dict[str, Any] = yaml.safe_load(content)
    code = data.pop("code")
    return Words(code=Code(code["value"], "RFC5646", code["meaning"]), months=tuple(data.pop("months")), **data)


def draft_of(result: InferenceResult, sources: SourceImages, language: Language) -> list[Paragraph]:
    """Put ``result`` into words; nothing in them identifies the patient."""
    words = words_of(language)
    image = result.image
    notes = list(result.notes)
    if not isinstance(image, ImageVolume) and image.spacing_note not in notes:
        notes.insert(0, image.spacing_note)
    series = numbers(sources.first, "SeriesNumber")
    written = _template(language).render(
        title=_one_line(result.title),
        modality=words.modalities.get(image.modality, image.modality),
        study_date=_date(text(sources.first, "StudyDate"), words),
        series=f"{series[0]:.0f}" if series else "",
        images=image.grid.shape[0] if isinstance(image, ImageVolume) else 1,
        algorithm=result.algorithm.name,
        version=result.algorithm.version,
        manufacturer=result.algorithm.manufacturer,
        findings=[
            {
                "name": words.term(finding.finding),
                "side": "" if finding.laterality is None else words.term(finding.laterality),
                "measured": [words.value(measurement) for measurement in finding.measurements],
            }
            for finding in result.findings
        ],
        overall=[words.value(measurement) for measurement in result.overall],
        notes=[note for note in map(_one_line, notes) if note],
        intended_use=_one_line(result.intended_use),
    )
    return [_paragraph(line.strip()) for line in written.split("\n") if line.strip()]


def as_text(paragraphs: Sequence[Paragraph]) -> list[str]:
    """A draft as lines of text."""
    return [f"- {one.words}" if one.kind == "item" else one.words for one in paragraphs]


def _one_line(words: str) -> str:
    """A line break in a package's words would begin a paragraph."""
    return " ".join(words.split())


def _paragraph(line: str) -> Paragraph:
    for mark, kind in _MARKS:
        if line.startswith(mark):
            return Paragraph(kind, line.removeprefix(mark))
    return Paragraph("text", line)


@lru_cache(maxsize=8)
def _template(language: Language) -> Any:
    environment = SandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["sentence"] = lambda words: words[:1].upper() + words[1:]
    return environment.from_string(words_of(language).template)


def _date(value: str, words: Words) -> str:
    try:
        return words.day(datetime.strptime(value, "%Y%m%d"))
    except ValueError:
        return ""
