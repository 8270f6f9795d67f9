"""Results to write: of real loading, with a mask made by hand in place of a model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.domain.codes import Code
from appliance.domain.image import ImageVolume, ProjectionImage
from appliance.domain.result import Algorithm, Finding, InferenceResult, Measurement, Segment
from appliance.domain.states import Scope
from appliance.imaging.loading import load_image
from appliance.manifest.manifest import InputSpec
from appliance.results.context import ResultContext
from appliance.results.sources import SourceImages

ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
BRAIN = Code("12738006", "SCT", "Brain")
LUNG = Code("39607008", "SCT", "Lung")
RIGHT = Code("24028007", "SCT", "Right")
LEFT = Code("7771000", "SCT", "Left")
VOLUME = Code("118565006", "SCT", "Volume")
AREA = Code("42798000", "SCT", "Area")
MILLILITER = Code("ml", "UCUM", "milliliter")
PIXELS = Code("{pixels}", "UCUM", "pixels")
SQUARE_CENTIMETER = Code("cm2", "UCUM", "square centimeter")
RATIO = Code("{ratio}", "UCUM", "ratio")
LUNG_RATIO = Code("118586006", "SCT", "Ratio")

ALGORITHM = Algorithm(
    name="Example network",
    version="1.2.0",
    family=Code("123110", "DCM", "Artificial Intelligence"),
    manufacturer="Example makers",
    parameters=(("weights", "sha256:0123abcd"), ("backend", "onnxruntime"), ("precision", "float32")),
)
CONTEXT = ResultContext("example/1.2.0", 1, datetime(2026, 11, 2, 14, 3, 5), "SN-0001")
IMAGE_CONTEXT = ResultContext("example/1.2.0", 1, datetime(2026, 11, 2, 14, 3, 5), "SN-0001", Scope.INSTANCE)
VOLUME_INPUT = InputSpec(kind="volume", allow_tilt=True, allow_variable_spacing=True, max_slice_spacing_mm=20)
RADIOGRAPH_INPUT = InputSpec(kind="projection")


@dataclass(frozen=True)
class Example:
    """What the writers are called with."""

    result: InferenceResult
    sources: SourceImages
    context: ResultContext


def volume_example(paths: Sequence[Path], mask: NDArray[np.bool_] | None = None) -> Example:
    """One segment and its volume; by default what is brighter than the mean, in the middle of the stack."""
    loaded = load_image(paths, VOLUME_INPUT)
    image = loaded.image
    assert isinstance(image, ImageVolume)
    if mask is None:
        mask = image.voxels > image.voxels.mean()
        edge = max(1, image.grid.shape[0] // 6) if image.grid.shape[0] > 2 else 0
        if edge:
            mask[:edge] = mask[-edge:] = False
    milliliters = float(mask.sum(axis=(1, 2)) @ image.grid.voxel_volumes_mm3) / 1000
    result = InferenceResult(
        algorithm=ALGORITHM,
        image=image,
        findings=(Finding("brain", BRAIN, BRAIN, None, (Measurement(VOLUME, milliliters, MILLILITER),), 0),),
        segments=(Segment("Brain", mask, ANATOMY, BRAIN, None, (255, 196, 0)),),
        intended_use="An example of a result. Not for clinical use.",
        title="Brain volume (AI)",
        notes=("The mask was made by a threshold.",),
    )
    return Example(result, SourceImages(loaded.datasets), CONTEXT)


def radiograph_example(path: Path, masks: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None) -> Example:
    """Two lungs, their areas and the ratio of these."""
    loaded = load_image([path], RADIOGRAPH_INPUT)
    image = loaded.image
    assert isinstance(image, ProjectionImage)
    right, left = masks or (_ellipse(image.pixels.shape, 0.3), _ellipse(image.pixels.shape, 0.7))
    sides = (("right lung", RIGHT, right, (0, 200, 255)), ("left lung", LEFT, left, (255, 140, 0)))
    ratio = float(np.count_nonzero(right)) / max(float(np.count_nonzero(left)), 1.0)
    result = InferenceResult(
        algorithm=ALGORITHM,
        image=image,
        findings=tuple(
            Finding(name, LUNG, LUNG, side, (_area(mask, image),), index)
            for index, (name, side, mask, _) in enumerate(sides)
        ),
        segments=tuple(
            Segment(name.capitalize(), mask, ANATOMY, LUNG, side, color) for name, side, mask, color in sides
        ),
        intended_use="An example of a result. Not for clinical use.",
        title="Lung areas (AI)",
        overall=(Measurement(LUNG_RATIO, ratio, RATIO, digits=2),),
        notes=("A frontal view is assumed.",),
    )
    return Example(result, SourceImages(loaded.datasets), IMAGE_CONTEXT)


def _area(mask: NDArray[np.bool_], image: ProjectionImage) -> Measurement:
    count = float(np.count_nonzero(mask))
    if image.pixel_spacing_mm is None:
        return Measurement(AREA, count, PIXELS, digits=0)
    return Measurement(AREA, count * image.pixel_spacing_mm[0] * image.pixel_spacing_mm[1] / 100, SQUARE_CENTIMETER)


def _ellipse(shape: tuple[int, ...], centre: float) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j]
    return np.asarray(((columns - centre) / 0.12) ** 2 + ((rows - 0.5) / 0.3) ** 2 <= 1)
