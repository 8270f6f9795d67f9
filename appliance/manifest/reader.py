"""Reading a manifest from YAML, with errors that name the field."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from appliance.errors import ModelPackageError
from appliance.manifest.manifest import Manifest


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: YAML would silently let the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                mark = node.value[number][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} twice", mark)
        return super().construct_mapping(node, deep=deep)


def read_manifest(path: Path) -> Manifest:
    """Read and check ``manifest.yaml``.

    Raises
    ------
    ModelPackageError
        The file cannot be read, is not YAML, or breaks a rule; every broken rule is named with its field.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # safe: a SafeLoader
    except OSError as error:
        raise ModelPackageError(f"cannot read {path}", found=error.strerror) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a date that there is not
        raise ModelPackageError(f"{path} is not YAML", found=" ".join(str(error).split())) from error
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        rules = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'manifest'}: {item['msg']}" for item in error.errors()
        )
        raise ModelPackageError(
            f"{path} breaks {error.error_count()} rule(s)", found=rules, mend="engines/README.md describes each field"
        ) from error
