"""Which images a model wants: predicates over the attributes that are known at receipt, each with its reason."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from appliance.domain.attributes import MATCH_ATTRIBUTES, Attributes, AttributeValue
from appliance.manifest.base import ManifestModel


class Condition(ManifestModel):
    """One predicate over one attribute."""

    attribute: Annotated[str, Field(description="Keyword of the attribute (PS3.6), e.g. SeriesDescription")]
    pattern: Annotated[
        str | None, Field(description="Regular expression searched in the value (values joined by a backslash)")
    ] = None
    excludes: Annotated[str | None, Field(description="Regular expression that must not be found in the value")] = None
    min: Annotated[float | None, Field(description="Smallest accepted number")] = None
    max: Annotated[float | None, Field(description="Largest accepted number")] = None
    absent: Annotated[Literal["accept", "reject"], Field(description="What an image without the attribute gets")] = (
        "reject"
    )
    because: Annotated[str, Field(min_length=1, description="Why the model needs it, in words for the operator")]

    @field_validator("attribute")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in MATCH_ATTRIBUTES:
            raise ValueError(f"{value!r} is not kept at receipt; choose one of {', '.join(MATCH_ATTRIBUTES)}")
        return value

    @field_validator("pattern", "excludes")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Condition:
        if self.pattern is None and self.excludes is None and self.min is None and self.max is None:
            raise ValueError("give at least one of pattern, excludes, min, max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"no number is at least {self.min:g} and at most {self.max:g}")
        return self

    def refusal(self, value: AttributeValue | None) -> str | None:
        """Return why ``value`` does not satisfy the predicate, or ``None`` when it does."""
        if value is None:
            return None if self.absent == "accept" else f"{self.attribute} is absent ({self.because})"
        text = "\\".join(value) if isinstance(value, list) else str(value)
        if self.pattern is not None and re.search(self.pattern, text) is None:
            return f"{self.attribute} does not match ({self.because})"
        if self.excludes is not None and re.search(self.excludes, text) is not None:
            return f"{self.attribute} is excluded ({self.because})"
        if self.min is None and self.max is None:
            return None
        if isinstance(value, list):
            return f"{self.attribute} has several values, one number is expected ({self.because})"
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            return f"{self.attribute} is not a number ({self.because})"
        if self.min is not None and number < self.min:
            return f"{self.attribute} is {number:g}, below {self.min:g} ({self.because})"
        if self.max is not None and number > self.max:
            return f"{self.attribute} is {number:g}, above {self.max:g} ({self.because})"
        return None


class Match(ManifestModel):
    """Which images a model is asked about at all."""

    modality: Annotated[list[str], Field(min_length=1, description="Accepted values of Modality (0008,0060)")]
    sop_class_uid: Annotated[
        list[str], Field(min_length=1, description="Accepted SOP Class UIDs (0008,0016); associations offer these")
    ]
    min_images: Annotated[
        int, Field(ge=1, description="Fewest images (instances, or frames of multi-frame ones) of a series")
    ] = 1
    conditions: Annotated[list[Condition], Field(description="Predicates; all must hold")] = []

    def refusal(self, sop_class_uids: frozenset[str], images: int, attributes: Attributes) -> str | None:
        """Return why the model does not want these images, or ``None`` when it does.

        Parameters
        ----------
        sop_class_uids
            All SOP classes that occur in the series (one for an instance).
        images
            Number of instances, or of frames when they are multi-frame.
        attributes
            As kept at receipt from the first instance of the series, or from the instance.
        """
        modality = attributes.get("Modality")
        if modality not in self.modality:
            return f"Modality is {modality or 'absent'}, wants {' or '.join(self.modality)}"
        if not sop_class_uids <= set(self.sop_class_uid):
            return "its SOP class is not among those the model takes"
        if images < self.min_images:
            return f"{images} image(s), wants at least {self.min_images}"
        return self._first_refusal(attributes)

    def _first_refusal(self, attributes: Mapping[str, AttributeValue]) -> str | None:
        for condition in self.conditions:
            reason = condition.refusal(attributes.get(condition.attribute))
            if reason is not None:
                return reason
        return None
