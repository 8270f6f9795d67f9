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


class DerivedSpec(ManifestModel):
    """Parts of another structure, chosen by the values of the source image's own voxels (CT: HU).

    Voxels are first smoothed, then chosen: so that noise makes no findings. Distances and parts are in the patient,
    whatever the tilt and the spacing of the slices.
    """

    within: Annotated[str, Field(description="Label of the structure, listed earlier and not itself derived")]
    min: Annotated[float, Field(description="Least value, itself included")]
    max: Annotated[float, Field(description="Largest value, itself included")]
    smooth_mm: Annotated[
        float,
        Field(ge=0, le=20, description="Standard deviation of a Gaussian in the planes of the slices; 0: none. Only "
              "voxels of the structure are averaged, so that bone beside it does not spill in"),
    ] = 0.0  # fmt: skip
    erode_mm: Annotated[
        float,
        Field(ge=0, le=50, description="Voxels so near to the outside of the structure, or nearer, are left out; "
              "slices that touch are at no distance, whatever their thickness: between them lie partial volumes"),
    ] = 0.0  # fmt: skip
    min_component_ml: Annotated[
        float, Field(ge=0, description="Parts (voxels that touch by faces) smaller than this are left out")
    ] = 0.0
    native_only: Annotated[
        bool,
        Field(description="Not measured, and the result says so, where an image names a contrast agent (0018,0010)"),
    ] = False

    @model_validator(mode="after")
    def _ordered(self) -> DerivedSpec:
        if self.min >= self.max:
            raise ValueError(f"min is {self.min:g}, it must be below max, {self.max:g}")
        return self


class StructureSpec(ManifestModel):
    """One structure: which channel, or which part of another one, how it becomes a mask, what is measured."""

    label: Annotated[str, Field(min_length=1, max_length=64, description="Segment Label (0062,0005)")]
    channel: Annotated[
        int | None, Field(ge=0, description="Channel of the last stage's output, base 0; not with derived")
    ] = None
    derived: Annotated[
        DerivedSpec | None, Field(description="Volumes: part of another structure, instead of a channel")
    ] = None
    optional: Annotated[
        bool,
        Field(description="May be absent: then it is measured as 0 and has no segment. What is not optional must be "
              "found, or the image is refused"),
    ] = False  # fmt: skip
    category: Annotated[CodeSpec, Field(description="Segmented Property Category (CID 7150)")]
    structure: Annotated[CodeSpec, Field(description="Segmented Property Type")]
    laterality: Annotated[CodeSpec | None, Field(description="Laterality (CID 244)")] = None
    color: Annotated[
        tuple[Intensity, Intensity, Intensity], Field(description="sRGB color of outline and segment, 0 to 255 each")
    ]
    components: Annotated[int, Field(ge=0, description="Keep this many largest connected components; 0 keeps all")] = 0
    fill_holes: Annotated[bool, Field(description="Fill holes that are enclosed by the mask")] = False
    measurements: Annotated[list[MeasurementSpec], Field(min_length=1, description="What is measured")]

    @model_validator(mode="after")
    def _has_one_origin(self) -> StructureSpec:
        if (self.channel is None) == (self.derived is None):
            raise ValueError(f"{self.label}: give channel or derived, one of them")
        if self.derived is not None and (self.components or self.fill_holes):
            raise ValueError(f"{self.label}: components and fill_holes are for what the network outlines")
        return self


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
        Literal["threshold", "argmax", "labels"],
        Field(
            description="threshold: each channel is the probability of its structure; argmax: the channels are "
            "probabilities that sum to 1, channel 0 is background; labels: the channels are scores of any scale, "
            "channel 0 is background, the highest wins; or there is one channel of whole numbers that says which won"
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
        if self.kind != "threshold" and any(structure.channel == 0 for structure in self.structures):
            raise ValueError(f"with kind {self.kind} channel 0 is the background, it is no structure")
        if self.kind == "labels" and self.restore != "nearest":
            raise ValueError("with kind labels restore must be nearest: between labels nothing can be interpolated")
        for ratio in self.ratios:
            for label in (ratio.numerator, ratio.denominator):
                if label not in labels:
                    raise ValueError(f"ratio names {label!r}, structures are {labels}")
            if self.structures[labels.index(ratio.denominator)].optional:
                raise ValueError(f"ratio divides by {ratio.denominator!r}, which is optional: it may be 0")
        return self

    @model_validator(mode="after")
    def _derived(self) -> Readout:
        outlined: list[str] = []
        for structure in self.structures:
            if structure.derived is None:
                outlined.append(structure.label)
            elif structure.derived.within not in outlined:
                raise ValueError(f"{structure.label} lies within {structure.derived.within!r}, outlined are {outlined}")
        if not outlined:
            raise ValueError("no structure has a channel")
        return self

    @property
    def outlined(self) -> list[tuple[int, StructureSpec]]:
        """The structures that the network outlines, in order, each with its channel."""
        return [(s.channel, s) for s in self.structures if s.channel is not None]
