"""Reading a manifest from YAML, with errors that name the field."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from appliance.errors import ModelPackageError
from appliance.manifest.manifest import Manifest


def read_manifest(path: Path) -> Manifest:
    """Read and check ``manifest.yaml``.

    Raises
    ------
    ModelPackageError
        The file cannot be read, is not YAML, or breaks a rule; every broken rule is named with its field.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
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
