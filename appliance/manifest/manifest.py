"""The manifest of a model package."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from appliance.domain.states import Scope
from appliance.manifest.base import CodeSpec, ManifestModel
from appliance.manifest.golden import GoldenCase, Parity, check_expectations
from appliance.manifest.matching import Match
from appliance.manifest.readout import Readout
from appliance.manifest.steps import CropToBox, CropToForeground, Orient, Resample, Resize, ScaleQuantiles, Step
from appliance.manifest.weights import WeightsFile

BackendName = Literal["onnxruntime", "openvino", "tensorrt"]
Precision = Literal["float32", "float16", "bfloat16", "int8"]


class AlgorithmSpec(ManifestModel):
    """Who made the result (PS3.16 TID 4019)."""

    name: Annotated[str, Field(min_length=1, max_length=64, description="Algorithm Name (111001, DCM)")]
    version: Annotated[str, Field(min_length=1, max_length=64, description="Algorithm Version (111003, DCM)")]
    manufacturer: Annotated[str, Field(min_length=1, max_length=64, description="Who made the algorithm")]
    family: Annotated[CodeSpec, Field(description="Algorithm Family (CID 7162)")]


class InputSpec(ManifestModel):
    """What the images must be like once decoded; what is not is refused as ``UnsuitableImage``."""

    kind: Annotated[Literal["volume", "projection"], Field(description="A stack of parallel slices, or one radiograph")]
    min_slices: Annotated[int, Field(ge=1, description="Volumes: fewest slices")] = 1
    max_slice_spacing_mm: Annotated[
        float | None, Field(gt=0, description="Volumes: largest distance from the plane of a slice to that of the next")
    ] = None
    max_pixel_spacing_mm: Annotated[float | None, Field(gt=0, description="Largest in-plane spacing")] = None
    min_extent_mm: Annotated[
        float | None, Field(gt=0, description="Volumes: least extent along every axis of the stack")
    ] = None
    allow_tilt: Annotated[bool, Field(description="Volumes: take sheared stacks (gantry tilt)")] = False
    allow_variable_spacing: Annotated[
        bool,
        Field(
            description="Volumes: take stacks in which the distance between slices varies, up to max_slice_spacing_mm. "
            "The model gets slices at equal distances, interpolated linearly between the true places of neighbours; "
            "its output returns to the source slices, each counts with the space it stands for, and the result says so"
        ),
    ] = False
    apply_voi: Annotated[
        bool, Field(description="Apply the VOI LUT or window of the image: for models trained on displayed images")
    ] = False

    @model_validator(mode="after")
    def _has_a_limit(self) -> InputSpec:
        if self.allow_variable_spacing and self.max_slice_spacing_mm is None:
            raise ValueError("allow_variable_spacing needs max_slice_spacing_mm: the widest gap that may be bridged")
        return self


class BoxSpec(ManifestModel):
    """How a locating stage's output becomes a box: around the largest connected part of channel 0."""

    threshold: Annotated[float, Field(gt=0, lt=1, description="The part lies where the output is above this")]
    min_occupancy: Annotated[
        float,
        Field(
            ge=0, lt=1, description="Planes at the ends of which the part fills no more than this share are left out"
        ),
    ] = 0.0


class ProfileSpec(ManifestModel):
    """Shapes that a network with free axes takes: from ``min`` to the stage's ``input_shape``, the largest."""

    min: Annotated[list[int], Field(min_length=4, max_length=5, description="Smallest shape")]
    typical: Annotated[
        list[int], Field(min_length=4, max_length=5, description="Shape that engines are tuned for and warmed with")
    ]


class StageSpec(ManifestModel):
    """One network of the model, with what is done before and after it."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the stage, for timings and errors")]
    weights: Annotated[str, Field(description="Which of the weights files it runs")]
    input_tensor: Annotated[str, Field(description="Name of the input tensor")]
    input_shape: Annotated[list[int], Field(min_length=4, max_length=5, description="Batch, channel, then axes")]
    profile: Annotated[
        ProfileSpec | None, Field(description="Makes the axes free: input_shape is then the largest shape")
    ] = None
    steps: Annotated[list[Step], Field(description="Preprocess steps, in order")]
    output_tensor: Annotated[str, Field(description="Name of the output tensor [batch, channel, axes…]")]
    box: Annotated[
        BoxSpec | None,
        Field(description="Makes this a locating stage, whose box crop_to_box in later stages uses"),
    ] = None


class RuntimeSpec(ManifestModel):
    """How the networks are run."""

    backends: Annotated[
        list[BackendName],
        Field(min_length=1, description="In order of preference; the first that can run all networks is used"),
    ]
    precision: Annotated[Precision, Field(description="Set explicitly on every backend")] = "float32"
    fold: Annotated[
        bool,
        Field(
            description="Move into the networks what is pointwise around them: affine steps at the end, the threshold "
            "of a box, and of the readout the winner (kind labels) or the threshold (kind threshold, restore nearest)"
        ),
    ] = False
    time_limit_s: Annotated[float, Field(gt=0, description="Longest time that one image or series may take")]


class Manifest(ManifestModel):
    """Everything the appliance knows about a model."""

    schema_version: Annotated[Literal[1], Field(description="Version of this format")]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,62}$", description="Name of the package")]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$", description="Version of the package; immutable")]
    open_points: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(description="What has to be settled before the model may serve; models import writes them"),
    ] = []
    title: Annotated[str, Field(min_length=1, max_length=60, description="Series Description of the results")]
    algorithm: Annotated[AlgorithmSpec, Field(description="Algorithm identification")]
    intended_use: Annotated[str, Field(min_length=1, description="Intended use, repeated in every result")]
    licence: Annotated[str, Field(min_length=1, description="Licence of the weights")]
    activation: Annotated[
        Literal["automatic", "manual"],
        Field(description="automatic: active as soon as it is there; manual: only once it is named or activated"),
    ] = "automatic"
    scope: Annotated[Scope, Field(description="instance: each image alone, at once; series: when it is complete")]
    match: Annotated[Match, Field(description="Which images the model wants")]
    input: Annotated[InputSpec, Field(description="What the decoded images must be like")]
    weights: Annotated[list[WeightsFile], Field(min_length=1, description="The ONNX files")]
    stages: Annotated[list[StageSpec], Field(min_length=1, description="The networks, in order")]
    readout: Annotated[Readout, Field(description="From the last stage's output to structures and numbers")]
    runtime: Annotated[RuntimeSpec, Field(description="Backends, precision, limits")]
    golden: Annotated[list[GoldenCase], Field(description="Real images whose result is known")] = []
    parity: Annotated[Parity, Field(description="How far from the reference a backend or precision may be")] = Parity()

    @model_validator(mode="after")
    def _stages_fit(self) -> Manifest:
        files = [weights.file for weights in self.weights]
        if len(set(files)) != len(files):
            raise ValueError("two weights files have the same name")
        axes = 3 if self.input.kind == "volume" else 2
        earlier: list[StageSpec] = []
        for stage in self.stages:
            where = f"stage {stage.name}"
            if stage.name in [other.name for other in earlier]:
                raise ValueError(f"two stages are called {stage.name!r}")
            if stage.weights not in files:
                raise ValueError(f"{where} runs {stage.weights!r}, weights are {sorted(files)}")
            if len(stage.input_shape) != axes + 2:
                raise ValueError(f"{where}: input_shape must have {axes + 2} entries for a {self.input.kind}")
            for step in stage.steps:
                _check_step(step, where, axes, earlier)
            _check_profile(stage, where)
            _check_resample(stage, where, axes)
            _check_foreground(stage, where)
            sizes = [step.shape for step in stage.steps if isinstance(step, Resize)]
            if sizes and sizes[-1] != stage.input_shape[2:]:
                raise ValueError(f"{where}: resizes to {sizes[-1]}, input_shape ends with {stage.input_shape[2:]}")
            earlier.append(stage)
        if self.stages[-1].box is not None:
            raise ValueError("the last stage is read out, it cannot be a locating stage")
        return self

    @model_validator(mode="after")
    def _quantities_fit(self) -> Manifest:
        for structure in self.readout.structures:
            if structure.derived is not None and self.input.kind != "volume":
                raise ValueError(f"{structure.label}: only structures of volumes can be derived")
            for measurement in structure.measurements:
                if (measurement.quantity == "volume_ml") != (self.input.kind == "volume"):
                    raise ValueError(f"{structure.label}: a {self.input.kind} has no {measurement.quantity}")
        check_expectations(
            self.golden,
            {s.label: {measurement.quantity for measurement in s.measurements} for s in self.readout.structures},
        )
        return self

    @property
    def key(self) -> str:
        """``name/version``, as folders and logs have it."""
        return f"{self.name}/{self.version}"


def _check_profile(stage: StageSpec, where: str) -> None:
    """Raise ``ValueError`` when the shapes of a profile do not grow from min over typical to input_shape."""
    if stage.profile is None:
        return
    shapes = [stage.profile.min, stage.profile.typical, stage.input_shape]
    if any(len(shape) != len(stage.input_shape) for shape in shapes) or any(
        not 0 < least <= typical <= most for least, typical, most in zip(*shapes, strict=True)
    ):
        raise ValueError(f"{where}: the profile must grow from min over typical to input_shape, axis by axis")


def _check_resample(stage: StageSpec, where: str, axes: int) -> None:
    """Raise ``ValueError`` unless resample comes first: it starts from where the slices lie in the patient."""
    geometric = [
        step for step in stage.steps if isinstance(step, Orient | Resample | CropToForeground | CropToBox | Resize)
    ]
    if not any(isinstance(step, Resample) for step in geometric):
        return
    if axes == 2:
        raise ValueError(f"{where}: resample is for volumes")
    if any(isinstance(step, Resample) for step in geometric[1:]) or any(isinstance(step, Orient) for step in geometric):
        raise ValueError(f"{where}: resample comes before the other geometric steps, and takes the place of orient")


def _check_foreground(stage: StageSpec, where: str) -> None:
    """Raise ``ValueError`` when the box of crop_to_foreground could have a shape that the stage does not take."""
    for place, step in enumerate(stage.steps):
        if not isinstance(step, CropToForeground):
            continue
        if stage.profile is None or any(isinstance(later, Resize) for later in stage.steps[place:]):
            raise ValueError(f"{where}: crop_to_foreground needs a profile, and no resize after it")
        if any(size % step.multiple for size in (*stage.profile.min[2:], *stage.input_shape[2:])):
            raise ValueError(f"{where}: the smallest and largest shape must be multiples of {step.multiple}")


def _check_step(step: Step, where: str, axes: int, earlier: list[StageSpec]) -> None:
    """Raise ``ValueError`` when a step of a stage cannot run on ``axes`` axes or needs what no earlier stage gives."""
    if isinstance(step, CropToBox) and all(stage.box is None for stage in earlier):
        raise ValueError(f"{where}: crop_to_box needs an earlier stage with a box")
    if isinstance(step, Orient) and axes == 2:
        raise ValueError(f"{where}: orient is for volumes")
    if isinstance(step, Resize) and len(step.shape) != axes:
        raise ValueError(f"{where}: resize to {step.shape} does not have {axes} axes")
    if isinstance(step, Resize) and step.interpolation == "area" and axes == 3:
        raise ValueError(f"{where}: resize with interpolation area is for radiographs, use linear or nearest")
    if isinstance(step, ScaleQuantiles) and step.of_stage not in (None, *(stage.name for stage in earlier)):
        raise ValueError(f"{where}: scale_quantiles uses {step.of_stage!r}, which is no earlier stage")
