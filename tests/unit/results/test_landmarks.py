"""A phantom with landmarks at known places, acquired in every way: each form must show them where they are.

Three balls of different size and brightness, so placed that no mirror image and no exchange of axes is like another.
What a form says is read back with the Standard's formulas (PS3.3 equation C.7.6.2.1-1) on the objects and their source
images alone, and compared with where the balls were put: within half a voxel, volumes within 1 %.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from appliance.domain.forms import FORMS
from appliance.domain.image import ImageVolume
from appliance.domain.result import Finding, InferenceResult, Measurement, Segment
from appliance.imaging.loading import load_image
from appliance.results.objects import write_results
from appliance.results.readback import read_report
from appliance.results.sources import SourceImages
from tests.support.dicom_factory import AXIAL, CORONAL, SAGITTAL, Stack, ct_series, enhanced_ct, write_datasets
from tests.unit.results.examples import ALGORITHM, ANATOMY, BRAIN, CONTEXT, MILLILITER, VOLUME, VOLUME_INPUT


@dataclass(frozen=True)
class Ball:
    """A landmark: its centre in LPS mm, its radius in mm, its brightness in HU, the colour of its outline."""

    centre: tuple[float, float, float]
    radius: float
    hu: int
    color: tuple[int, int, int]

    @property
    def volume_mm3(self) -> float:
        return 4 / 3 * math.pi * self.radius**3


BALLS = (
    Ball((17.3, -4.2, 3.4), 15.0, 300, (255, 0, 0)),
    Ball((-13.4, -19.3, 9.1), 13.5, 600, (0, 255, 0)),
    Ball((-5.3, 14.6, -17.2), 14.2, 900, (0, 80, 255)),
)
_HALF_WIDTH_MM = 40.0

_OBLIQUE = (0.8, 0.6, 0.0), (-0.48, 0.64, -0.6)


def _around_the_middle(stack: Stack) -> tuple[Stack, tuple[int, int, int]]:
    """The stack moved so that its middle is the origin of the patient, with as many voxels as reach all balls."""
    along = abs(float(stack.step() @ np.cross(stack.row, stack.column)))
    last = stack.places[-1] if stack.places is not None else math.ceil(2 * _HALF_WIDTH_MM / along)
    slices = len(stack.places) if stack.places is not None else int(last) + 1
    shape = (slices, *(math.ceil(2 * _HALF_WIDTH_MM / spacing) + 1 for spacing in stack.spacing_mm[1:]))
    middle = stack.affine()[:3, :3] @ ((last) / 2, (shape[1] - 1) / 2, (shape[2] - 1) / 2)
    x, y, z = (-middle).tolist()
    return replace(stack, origin_mm=(x, y, z)), shape


def _phantom(stack: Stack, shape: tuple[int, int, int]) -> NDArray[np.int16]:
    hu = np.zeros(shape, dtype=np.int16)
    rows, columns = np.indices(shape[1:])
    for index in range(shape[0]):
        position = stack.position_mm(index)
        row, column = (np.asarray(axis) for axis in (stack.row, stack.column))
        _, row_spacing, column_spacing = stack.spacing_mm
        points = position + rows[..., None] * row_spacing * column + columns[..., None] * column_spacing * row
        for ball in BALLS:
            hu[index][np.linalg.norm(points - ball.centre, axis=-1) <= ball.radius] = ball.hu
    return hu


# Variable distances: dense at the one end, as a head is scanned.
_PLACES = tuple(np.concatenate((np.arange(0, 40, 1.25), np.arange(40, 81, 2.0))).tolist())

ACQUISITIONS: dict[str, Stack] = {
    "axial": Stack(*AXIAL, spacing_mm=(1.4, 0.9, 0.9)),
    "axial-downwards": Stack(*AXIAL, spacing_mm=(1.4, 0.9, 0.9), step_mm=(0.0, 0.0, -1.4)),
    "feet-first": Stack((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), spacing_mm=(1.4, 0.9, 0.9)),
    "prone": Stack((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), spacing_mm=(1.4, 0.9, 0.9)),
    "sagittal": Stack(*SAGITTAL, spacing_mm=(1.5, 1.1, 0.9)),
    "coronal": Stack(*CORONAL, spacing_mm=(2.0, 1.0, 0.8)),
    "oblique": Stack(*_OBLIQUE, spacing_mm=(1.6, 0.9, 1.2)),
    "not-square": Stack(*AXIAL, spacing_mm=(1.5, 0.6, 1.3)),
    "tilted": Stack(*AXIAL, spacing_mm=(1.4, 0.9, 0.9), step_mm=(0.0, 0.5, 1.4)),
    "variable": Stack(*AXIAL, spacing_mm=(1.25, 1.0, 1.0), step_mm=(0.0, 0.0, 1.0), places=_PLACES),
}
ENHANCED = ("axial", "sagittal", "oblique", "not-square")


@dataclass(frozen=True)
class Written:
    """One acquisition: what was written of it, and its source images by UID."""

    forms: dict[str, list[Dataset]]
    sources: dict[str, Dataset]
    spacing_mm: tuple[float, float, float]


def _judged(datasets: list[Dataset], folder: Path) -> Written:
    loaded = load_image(write_datasets(datasets, folder / "in"), VOLUME_INPUT)
    image = loaded.image
    assert isinstance(image, ImageVolume)
    volumes = image.grid.voxel_volumes_mm3
    masks = [np.abs(image.voxels - ball.hu) < 50 for ball in BALLS]
    result = InferenceResult(
        algorithm=ALGORITHM,
        image=image,
        findings=tuple(
            Finding(
                f"ball {index}",
                BRAIN,
                BRAIN,
                None,
                (Measurement(VOLUME, float(mask.sum(axis=(1, 2)) @ volumes) / 1000, MILLILITER, digits=3),),
                index,
            )
            for index, mask in enumerate(masks)
        ),
        segments=tuple(
            Segment(f"Ball {index}", mask, ANATOMY, BRAIN, None, BALLS[index].color) for index, mask in enumerate(masks)
        ),
        intended_use="A phantom.",
        title="Landmarks",
    )
    (folder / "out").mkdir()
    forms = defaultdict(list)
    for item in write_results(result, SourceImages(loaded.datasets), CONTEXT, folder / "out", FORMS):
        forms[item.kind].append(dcmread(item.path))
    spacing = image.grid.spacing_mm
    return Written(dict(forms), {str(dataset.SOPInstanceUID): dataset for dataset in datasets}, spacing)


def _classic(name: str, folder: Path) -> Written:
    stack, shape = _around_the_middle(ACQUISITIONS[name])
    return _judged(ct_series(_phantom(stack, shape), stack), folder)


def _multi_frame(name: str, folder: Path) -> Written:
    stack, shape = _around_the_middle(ACQUISITIONS[name])
    return _judged([enhanced_ct(_phantom(stack, shape), stack)], folder)


Acquire = Callable[[str, Path], Written]
_CASES = [pytest.param(_classic, name, id=name) for name in ACQUISITIONS]
_CASES += [pytest.param(_multi_frame, name, id=f"{name}-enhanced") for name in ENHANCED]


@pytest.mark.parametrize(("acquire", "name"), _CASES)
def test_every_form_shows_the_landmarks_where_they_are(acquire: Acquire, name: str, tmp_path: Path) -> None:
    written = acquire(name, tmp_path)
    (segmentation,), (report,) = written.forms["seg"], written.forms["sr"]
    tolerance = min(written.spacing_mm) / 2
    found = _in_segmentation(segmentation)
    outlined = _in_presentations(written)
    for number, ball in enumerate(BALLS, start=1):
        for form, (centre, _) in (("seg", found[number]), ("gsps", outlined[number])):
            distance = float(np.linalg.norm(centre - ball.centre))
            assert distance < tolerance, f"{form}: ball {number} is {distance:.2f} mm away"
        assert found[number][1] == pytest.approx(ball.volume_mm3, rel=0.01)
    values = [measurement.value for measurement in read_report(report)]
    assert values == pytest.approx([ball.volume_mm3 / 1000 for ball in BALLS], rel=0.01)
    _check_key_objects(written)
    _check_capture(written.forms["sc"][0])


Place = tuple[NDArray[np.float64], float]
"""Centre of mass in LPS mm, and volume in mm³."""


def _in_segmentation(dataset: Dataset) -> dict[int, Place]:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    planes: dict[int, list[tuple[NDArray[np.float64], NDArray[np.float64], float]]] = defaultdict(list)
    for groups, mask in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        measures = (groups.get("PixelMeasuresSequence") or shared.PixelMeasuresSequence)[0]
        orientation = (groups.get("PlaneOrientationSequence") or shared.PlaneOrientationSequence)[0]
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        rows, columns = np.nonzero(mask)
        points = _to_patient(position, orientation.ImageOrientationPatient, measures.PixelSpacing, columns, rows)
        pixel_mm2 = float(measures.PixelSpacing[0]) * float(measures.PixelSpacing[1])
        segment = (groups.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence)[0]
        normal = np.cross(*np.reshape([float(value) for value in orientation.ImageOrientationPatient], (2, 3)))
        planes[int(segment.ReferencedSegmentNumber)].append((points, position @ normal, pixel_mm2))
    return {number: _mass(found) for number, found in planes.items()}


def _in_presentations(written: Written) -> dict[int, Place]:
    planes = defaultdict(list)
    for state in written.forms["gsps"]:
        for annotation in state.GraphicAnnotationSequence:
            if annotation.GraphicLayer == "CAPTION":
                continue
            (image,) = annotation.ReferencedImageSequence
            source = written.sources[image.ReferencedSOPInstanceUID]
            position, orientation, spacing = _plane(source, image.get("ReferencedFrameNumber"))
            for line in annotation.GraphicObjectSequence:
                (column, row), area = _centroid(np.reshape(line.GraphicData, (-1, 2)))
                # A presentation state counts from the corner of the first pixel, an image plane from its centre.
                point = _to_patient(position, orientation, spacing, np.array([column - 0.5]), np.array([row - 0.5]))
                normal = np.cross(*np.reshape([float(value) for value in orientation], (2, 3)))
                number = int(annotation.GraphicLayer.rpartition("_")[2])
                planes[number].append((point, position @ normal, area))
    return {number: _mass(found) for number, found in planes.items()}


def _mass(planes: list[tuple[NDArray[np.float64], NDArray[np.float64], float]]) -> Place:
    """Of planes with their points, their height and the area of each point."""
    planes = sorted(planes, key=lambda plane: float(plane[1]))
    heights = np.array([float(height) for _, height, _ in planes])
    weights = np.gradient(heights) if len(heights) > 1 else np.ones(1)
    masses = np.array([len(points) * area for points, _, area in planes]) * weights
    centres = np.array([points.mean(axis=0) for points, _, _ in planes])
    return masses @ centres / masses.sum(), float(masses.sum())


def _plane(source: Dataset, frame_number: int | None) -> tuple[NDArray[np.float64], list[float], list[float]]:
    if frame_number is None:
        position, orientation, spacing = (
            source.ImagePositionPatient,
            source.ImageOrientationPatient,
            source.PixelSpacing,
        )
    else:
        shared = source.SharedFunctionalGroupsSequence[0]
        frame = source.PerFrameFunctionalGroupsSequence[frame_number - 1]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    return np.array(position, dtype=float), [float(v) for v in orientation], [float(v) for v in spacing]


def _to_patient(
    position: NDArray[np.float64],
    orientation: list[float],
    spacing: list[float],
    columns: NDArray[np.floating] | NDArray[np.integer],
    rows: NDArray[np.floating] | NDArray[np.integer],
) -> NDArray[np.float64]:
    """PS3.3 equation C.7.6.2.1-1, for the centres of pixels."""
    along_row, along_column = np.reshape([float(value) for value in orientation], (2, 3))
    row_spacing, column_spacing = (float(value) for value in spacing)
    return np.asarray(
        position + np.outer(columns, along_row) * column_spacing + np.outer(rows, along_column) * row_spacing
    )


def _centroid(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Centre and area of a polygon (the shoelace formula)."""
    x, y = points.T
    cross = x[:-1] * y[1:] - x[1:] * y[:-1]
    area = cross.sum() / 2
    centre = np.array([((x[:-1] + x[1:]) * cross).sum(), ((y[:-1] + y[1:]) * cross).sum()]) / (6 * area)
    return centre, abs(float(area))


def _check_key_objects(written: Written) -> None:
    """For each ball an image is selected that passes near its middle; one image may do for two."""
    (document,) = written.forms["ko"]
    images = [item.ReferencedSOPSequence[0] for item in document.ContentSequence if item.ValueType == "IMAGE"]
    heights = []
    for image in images:
        source = written.sources[image.ReferencedSOPInstanceUID]
        position, orientation, _ = _plane(source, image.get("ReferencedFrameNumber"))
        normal = np.cross(*np.reshape(orientation, (2, 3)))
        heights.append((float(position @ normal), normal))
    for ball in BALLS:
        distances = [abs(height - float(np.dot(ball.centre, normal))) for height, normal in heights]
        assert min(distances) <= 2 * written.spacing_mm[0]
    assert 1 <= len(images) <= len(BALLS)


def _check_capture(dataset: Dataset) -> None:
    """In the picture each outline lies around its own ball: the middle of the line is that of the bright disc in it."""
    pixels = dataset.pixel_array.astype(int)
    seen = 0
    for ball, line in _lines(pixels):
        rows, columns = np.nonzero(line)
        if rows.size < 50:
            continue  # it does not reach this slice
        inside = np.zeros(line.shape, dtype=np.bool_)
        inside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        grey = (np.ptp(pixels, axis=2) < 8) & inside
        bright = grey & (pixels[..., 0] > 140 if ball.hu > 0 else grey)
        middle = np.array([(rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2])
        disc_rows, disc_columns = np.nonzero(bright)
        disc = np.array([(disc_rows.min() + disc_rows.max()) / 2, (disc_columns.min() + disc_columns.max()) / 2])
        # The picture has about 10 of its pixels for each of the image's.
        assert np.abs(middle - disc).max() < 5, f"the outline is {middle - disc} pixels beside its ball"
        seen += 1
    assert seen, "the best slice shows a ball"


def _lines(pixels: NDArray[np.int_]) -> Iterator[tuple[Ball, NDArray[np.bool_]]]:
    """The pixels in the pure colour of each ball's outline, above the legend."""
    for ball in BALLS:
        line = (np.abs(pixels - ball.color).max(axis=2) < 40) & (np.ptp(pixels, axis=2) > 100)
        line[int(pixels.shape[0] * 0.8) :] = False
        yield ball, line
