"""Reading the settings from YAML, with errors that name the line, the value, the rule and the mend."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from appliance.config.settings import Settings
from appliance.errors import ConfigurationError

_SURPRISING = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "timestamp")}


class _Loader(yaml.SafeLoader):
    """Reads plain words and numbers as people mean them, without the surprises of YAML 1.1.

    ``NO`` and ``ON`` are good AE titles, as ``0123`` is, and a serial number may look like a date: only ``true`` and
    ``false`` are truth values, only decimal numbers without a leading zero are integers, and nothing is a date. Where
    a truth value or a number is wanted, pydantic takes the other spellings for one.
    """

    yaml_implicit_resolvers = {
        first: [resolver for resolver in resolvers if resolver[0] not in _SURPRISING]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile("^[-+]?(?:0|[1-9][0-9_]*)$"), "-+0123456789")


def read_settings(path: Path | None) -> Settings:
    """Read and check the settings; without a path, the defaults.

    Raises
    ------
    ConfigurationError
        The file cannot be read, is not YAML, or breaks a rule; every broken rule is named with its line.
    """
    if path is None:
        return Settings()
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=_Loader)
        content = yaml.load(text, Loader=_Loader)  # safe: a SafeLoader
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}", found=error.strerror, mend="Give a file with -c") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a tag's value is none
        raise ConfigurationError(f"{path} is not YAML", found=" ".join(str(error).split())) from error
    if content is None:
        return Settings()
    if isinstance(content, dict):
        # A section whose every line is commented out reads as nothing: it has its defaults.
        content = {
            key: value for key, value in content.items() if value is not None or key not in Settings.model_fields
        }
    repeated = _repeated_key(root, set())
    if repeated is not None:
        key, line = repeated
        raise ConfigurationError(f"{path}, line {line}", found=f"key {key!r} twice", mend="Remove one of them")
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_explain(path, root, item) for item in error.errors())) from error


def _explain(path: Path, root: yaml.Node | None, item: Any) -> str:
    """One line for one broken rule: where, what was found, what is expected."""
    keys = list(item["loc"])
    if keys[:1] == ["destinations"] and len(keys) > 2:
        del keys[2]  # pydantic's loc has the kind of the destination here, the file has not
    name = ".".join(str(key) for key in keys) or "settings"
    where = f"{path}, line {_line_of(root, keys)}"
    message = item["msg"].removeprefix("Value error, ").removesuffix(" for <class 'pathlib.Path'>")
    if item["type"] == "extra_forbidden":
        return f"{where}: {name} is not a setting. configs/README.md lists them all; remove or correct it"
    if item["type"] == "missing":
        return f"{where}: {name} is missing. Add it"
    if item["type"] == "union_tag_not_found":
        return f"{where}: {name}.kind is missing. Add kind: dicom, or kind: folder"
    if item["type"] == "string_type" and isinstance(item["input"], int | float):
        message += ", put it in quotes"
    found = "" if isinstance(item["input"], dict | list) else f" (found {item['input']!r})"
    return f"{where}: {name}: {message}{found}"


def _line_of(node: yaml.Node | None, keys: list[int | str]) -> int:
    """The line (base 1) of the deepest node on the way along ``keys`` that the file has."""
    line = 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if pair is None:
                return line
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line


def _repeated_key(node: yaml.Node | None, visited: set[int]) -> tuple[str, int] | None:
    """The first key that stands twice in one mapping (YAML would silently let the last one win), and its line."""
    if id(node) in visited:  # an alias: it may even lead back to where it stands
        return None
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                return str(key.value), key.start_mark.line + 1
            seen.add(key.value)
            below = _repeated_key(value, visited)
            if below is not None:
                return below
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            below = _repeated_key(value, visited)
            if below is not None:
                return below
    return None
