"""What holds for every setting: it is explained, has its unit in its name, and never changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from appliance.config import settings
from appliance.config.layout import StateLayout
from appliance.config.settings import Section, Settings

SECTIONS = [
    value
    for value in vars(settings).values()
    if isinstance(value, type) and issubclass(value, Section) and value is not Section
]
FIELDS = [(section, name, field) for section in SECTIONS for name, field in section.model_fields.items()]


@pytest.mark.parametrize(("section", "name", "field"), FIELDS, ids=[f"{s.__name__}.{n}" for s, n, _ in FIELDS])
def test_every_setting_is_explained(section: type[Section], name: str, field: FieldInfo) -> None:
    if name != "kind":
        assert field.description, f"{section.__name__}.{name} has no words"
        assert not field.description.endswith(".")


@pytest.mark.parametrize(("section", "name", "field"), FIELDS, ids=[f"{s.__name__}.{n}" for s, n, _ in FIELDS])
def test_every_measured_number_has_its_unit_in_its_name(section: type[Section], name: str, field: FieldInfo) -> None:
    pure_numbers = {
        "port",
        "max_associations",
        "max_associations_per_peer",
        "max_connections",
        "count",
        "decoders",
        "threads",
        "nice",
        "max_attempts",
        "max_references",
        "factor",
    }
    if field.annotation in (int, float):
        assert name.endswith(("_s", "_days", "_bytes")) or name in pure_numbers


@pytest.mark.parametrize(("section", "name", "field"), FIELDS, ids=[f"{s.__name__}.{n}" for s, n, _ in FIELDS])
def test_every_number_has_its_bounds(section: type[Section], name: str, field: FieldInfo) -> None:
    if field.annotation in (int, float):
        assert any(hasattr(bound, limit) for bound in field.metadata for limit in ("ge", "gt"))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_is_closed_and_frozen(section: type[Section]) -> None:
    assert section.model_config["extra"] == "forbid"
    assert section.model_config["frozen"] is True
    assert section.__doc__


def test_a_setting_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().dicom.port = 104


@pytest.mark.parametrize("title", ["A", "CT 1", "SIXTEEN_LETTERS_", "a.b-c_d(1)"])
def test_ae_titles_of_the_standard(title: str) -> None:
    """PS3.5 section 6.2: 16 characters of the default repertoire without backslash and control characters."""
    assert settings.Peer(ae_title=title).ae_title == title


@pytest.mark.parametrize("title", ["", " ", " LEADING", "A\\B", "A\nB", "TITLE\n", "Ä", "SEVENTEEN_LETTERS"])
def test_what_is_no_ae_title(title: str) -> None:
    with pytest.raises(ValidationError):
        settings.Peer(ae_title=title)


def test_all_state_lies_in_the_state_folder() -> None:
    layout = StateLayout(Path("/state"))
    assert layout.folders[0] == layout.root
    for folder in (*layout.folders, layout.journal):
        assert folder.is_relative_to("/state")
    for number, folder in enumerate(layout.folders[1:], start=1):
        assert folder.parent in layout.folders[:number]  # parents first: they are made in this order


def models_of(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_of(argument)


def test_defaults_are_named_once() -> None:
    """A section that is left out and a section that is empty mean the same."""
    for field in Settings.model_fields.values():
        for model in models_of(field.annotation):
            if field.default is not None and isinstance(field.default, model):
                assert field.default == model()


def test_names_serve_as_labels_and_file_names() -> None:
    for name in ("", "Pacs", "a b", "a/b", "../a", "1a", "a" * 33):
        with pytest.raises(ValidationError):
            settings.FolderDestination(kind="folder", name=name, path=Path("/srv"))
