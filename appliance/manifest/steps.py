"""The preprocess steps that a manifest may list, in the order in which they run.

Each step is one class here and one method in ``imaging/preparation``. Geometric steps (``orient``, ``resample``,
``crop_to_box``, ``crop_to_foreground``, ``resize``) have an inverse, so that the model's output returns to the grid of
the source image.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from appliance.manifest.base import ManifestModel

Interpolation = Literal["nearest", "linear", "area"]
Samples = Annotated[int, Field(ge=1)]


class Orient(ManifestModel):
    """Permute and flip the axes of a volume to the nearest of the named orientation; no resampling."""

    step: Literal["orient"]
    axes: Annotated[
        str,
        Field(
            pattern=r"^[RLAPIS]{3}$",
            description="Direction in which each axis (first, second, third) of the array increases, e.g. RAS",
        ),
    ]


class Resample(ManifestModel):
    """Resample a volume linearly to cubes along the patient's axes, however the slices were taken.

    The grid covers the whole source; outside of this it holds the least value of the image.
    """

    step: Literal["resample"]
    spacing_mm: Annotated[float, Field(gt=0, description="Edge of a cube")]
    axes: Annotated[
        str,
        Field(pattern=r"^[RLAPIS]{3}$", description="Direction in which each axis of the grid increases, e.g. LIA"),
    ]

    @field_validator("axes")
    @classmethod
    def _three(cls, value: str) -> str:
        if {frozenset(pair) & set(value) != frozenset() for pair in ("RL", "AP", "IS")} != {True}:
            raise ValueError(f"axes is {value}, it must name one of R and L, one of A and P, one of I and S")
        return value


class CropToForeground(ManifestModel):
    """Cut out a box around the largest connected part above a level; the stage needs a profile.

    Its size is rounded up to a multiple, so that few different shapes occur, and kept between those of the profile.
    """

    step: Literal["crop_to_foreground"]
    level: Annotated[float, Field(description="The part lies above it, in the units of the array at this step")]
    margin: Annotated[int, Field(ge=0, description="Samples added on each side, where there is room for them")] = 8
    multiple: Annotated[int, Field(ge=1, description="The size of the box is a multiple of this along every axis")] = 16
    keep: Annotated[
        Literal["start", "middle", "end"],
        Field(description="What remains of an axis along which the part is longer than the stage's largest shape"),
    ] = "middle"


class CropToBox(ManifestModel):
    """Cut out the box that an earlier stage found, enlarged by a margin and clipped to the image."""

    step: Literal["crop_to_box"]
    margin: Annotated[
        float, Field(ge=0, le=1, description="Added on each side, as a fraction of the box's own size")
    ] = 0.0


class Resize(ManifestModel):
    """Resize to a fixed number of samples per axis; the field of view stays the same."""

    step: Literal["resize"]
    shape: Annotated[list[Samples], Field(min_length=2, max_length=3, description="Samples per axis")]
    interpolation: Annotated[
        Interpolation,
        Field(
            description="nearest (the sample nearest to the centre), linear (between sample centres), or area "
            "(2D only: linear, with anti-aliasing)"
        ),
    ]


class ScaleQuantiles(ManifestModel):
    """Map two quantiles to 0 and 1, linearly, and clip what lies outside. A constant image is refused."""

    step: Literal["scale_quantiles"]
    low: Annotated[float, Field(ge=0, lt=1, description="Quantile that becomes 0, between 0 and 1")]
    high: Annotated[float, Field(gt=0, le=1, description="Quantile that becomes 1, between 0 and 1")]
    of_stage: Annotated[
        str | None,
        Field(description="Use the values that this earlier stage found, instead of those of the array at this step"),
    ] = None

    @model_validator(mode="after")
    def _ordered(self) -> ScaleQuantiles:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g}, it must be below high, {self.high:g}")
        return self


class ScaleRobustMax(ManifestModel):
    """Map the least value to 0 and the robust maximum to ``maximum``, and clip what lies outside.

    A constant image is refused.
    """

    step: Literal["scale_robust_max"]
    quantile: Annotated[
        float, Field(gt=0, le=1, description="Share of the samples other than 0 that the robust maximum is not below")
    ] = 0.999
    maximum: Annotated[float, Field(gt=0, description="What the robust maximum becomes")] = 255.0


class ScaleRange(ManifestModel):
    """Map the least value to 0 and the largest to 1. A constant image is refused."""

    step: Literal["scale_range"]


class Standardize(ManifestModel):
    """Subtract the mean and divide by the sample standard deviation (n - 1). A constant image is refused."""

    step: Literal["standardize"]


class Affine(ManifestModel):
    """Multiply by ``scale``, then add ``offset``."""

    step: Literal["affine"]
    scale: Annotated[float, Field(description="Factor")]
    offset: Annotated[float, Field(description="Added after the multiplication")]


class PiecewiseLinear(ManifestModel):
    """Map values along straight lines between knots; outside of the outer knots the outer values hold."""

    step: Literal["piecewise_linear"]
    knots: Annotated[
        list[tuple[float, float]],
        Field(min_length=2, description="Pairs of a value (CT: HU) and what it becomes, the values ascending"),
    ]

    @field_validator("knots")
    @classmethod
    def _ascending(cls, knots: list[tuple[float, float]]) -> list[tuple[float, float]]:
        values = [value for value, _ in knots]
        if any(low >= high for low, high in pairwise(values)):
            raise ValueError(f"the values of the knots must ascend, they are {', '.join(f'{v:g}' for v in values)}")
        return knots


Step = Annotated[
    Orient
    | Resample
    | CropToForeground
    | CropToBox
    | Resize
    | ScaleQuantiles
    | ScaleRobustMax
    | ScaleRange
    | Standardize
    | Affine
    | PiecewiseLinear,
    Field(discriminator="step"),
]
