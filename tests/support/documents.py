"""READMEs compared with what they describe."""

from __future__ import annotations

import inspect
import re
from typing import get_args

from pydantic import BaseModel


def table(text: str, title: str) -> set[str]:
    """The names in the first column of the first table below a heading."""
    rows = text.partition(f"{title}\n")[2].partition("|---|")[2].partition("\n\n")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", rows, re.MULTILINE))


def models_in(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A pydantic model and all that its fields are made of."""
    found: set[type[BaseModel]] = set()

    def walk(annotation: object) -> None:
        if inspect.isclass(annotation) and issubclass(annotation, BaseModel) and annotation not in found:
            found.add(annotation)
            for field in annotation.model_fields.values():
                walk(field.annotation)
        for argument in get_args(annotation):
            walk(argument)

    walk(model)
    return found
