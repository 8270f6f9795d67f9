"""How a model's output becomes structures and numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from appliance.manifest.base import CodeSpec, ManifestModel

Quantity = Literal["volume_ml", "area_cm2", "area_pixels"]
Intensity = Annotated[int, Field(ge=0, le=255)]


class MeasurementSpec(ManifestModel):
    """One number taken from a structure's mask."""

    quantity: Annotated[
        Quantity,
        Field(
            description="volume_ml (volumes), area_cm2 (radiographs; left out when the spacing is not honest) or "
            "area_pixels (radiographs without an honest spacing)"
        ),
    ]
    concept: Annotated[CodeSpec, Field(description="What is measured")]
    unit: Annotated[CodeSpec, Field(description="UCUM unit")]
    digits: Annotated[int, Field(ge=0, le=6, description="Decimals shown")] = 1
    plausible: Annotated[
        tuple[float, float] | None,
        Field(description="Smallest and largest plausible value; outside, the result is withheld with the reason"),
    ] = None

    @field_validator("plausible")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError("the smallest plausible value comes first, then the largest")
        return value


class StructureSpec(ManifestModel):
    """One structure: which channel, how it becomes a mask, what is measured."""

    label: Annotated[str, Field(min_length=1, max_length=64, description="Segment Label (0062,0005)")]
    channel: Annotated[int, Field(ge=0, description="Channel of the last stage's output, base 0")]
    category: Annotated[CodeSpec, Field(description="Segmented Property Category (CID 7150)")]
    structure: Annotated[CodeSpec, Field(description="Segmented Property Type")]
    laterality: Annotated[CodeSpec | None, Field(description="Laterality (CID 244)")] = None
    color: Annotated[
        tuple[Intensity, Intensity, Intensity], Field(description="sRGB color of outline and segment, 0 to 255 each")
    ]
    components: Annotated[int, Field(ge=0, description="Keep this many largest connected components; 0 keeps all")] = 0
    fill_holes: Annotated[bool, Field(description="Fill holes that are enclosed by the mask")] = False
    measurements: Annotated[list[MeasurementSpec], Field(min_length=1, description="What is measured")]


class RatioSpec(ManifestModel):
    """The quotient of the sizes of two structures."""

    concept: Annotated[CodeSpec, Field(description="What is measured")]
    numerator: Annotated[str, Field(description="Label of a structure")]
    denominator: Annotated[str, Field(description="Label of a structure")]
    unit: Annotated[CodeSpec, Field(description="UCUM unit, normally {ratio}")]
    digits: Annotated[int, Field(ge=0, le=6, description="Decimals shown")] = 2


class Readout(ManifestModel):
    """How the last stage's output is read."""

    kind: Annotated[
        Literal["threshold", "argmax"],
        Field(
            description="threshold: each channel is the probability of its structure; argmax: the channels are "
            "probabilities that sum to 1, channel 0 is background"
        ),
    ]
    threshold: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="Kind threshold: in the mask above it. Kind argmax: in some mask where the structures "
            "together reach it, and then in that of the likeliest",
        ),
    ] = 0.5
    restore: Annotated[
        Literal["nearest", "linear"],
        Field(description="Interpolation of the model's output on its way back to the source grid"),
    ] = "linear"
    structures: Annotated[list[StructureSpec], Field(min_length=1, description="What the model outlines")]
    ratios: Annotated[list[RatioSpec], Field(description="Quotients of structures' sizes")] = []
    notes: Annotated[list[str], Field(description="Sentences that every report of this model carries")] = []

    @model_validator(mode="after")
    def _labels(self) -> Readout:
        labels = [structure.label for structure in self.structures]
        if len(set(labels)) != len(labels):
            raise ValueError("two structures have the same label")
        if self.kind == "argmax" and any(structure.channel == 0 for structure in self.structures):
            raise ValueError("with kind argmax channel 0 is the background, it is no structure")
        for ratio in self.ratios:
            for label in (ratio.numerator, ratio.denominator):
                if label not in labels:
                    raise ValueError(f"ratio names {label!r}, structures are {labels}")
        return self
