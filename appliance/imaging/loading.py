"""Files → an image that a model can judge, or ``UnsuitableImage`` with the reason."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from appliance.domain.image import Image, ImageVolume
from appliance.errors import UnsuitableImage
from appliance.imaging.file import ImageFile, malformed_header
from appliance.imaging.invesalius import read_invesalius
from appliance.imaging.mixture import check_one_series
from appliance.imaging.nifti import read_nifti
from appliance.imaging.pixels import MAX_PIXELS, fill_padding, physical_values
from appliance.imaging.projection import projection_of
from appliance.imaging.slices import Slice, slices_of
from appliance.imaging.source import ImageSource, PlainFiles
from appliance.imaging.stack import grid_of, ordered
from appliance.manifest.golden import GoldenImage
from appliance.manifest.manifest import InputSpec

_NO_AGENT = re.compile(r"(?i)[-\s./]*|no|non|none|nil|n/?a|without|w/?o|nativ\w*|0+")
"""What technicians enter where there was no agent; anything else is taken for the name of one."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedImage:
    """An image and the headers that it came from.

    ``datasets`` have no pixel data and are in the order of the slices; an enhanced multi-frame image is one data set.
    """

    image: Image
    datasets: tuple[Dataset, ...]


def load_image(paths: Sequence[Path], spec: InputSpec, source: ImageSource | None = None) -> LoadedImage:
    """Load the files of a series, or the one file of an instance.

    Parameters
    ----------
    source
        What reads the files; ``PlainFiles`` when it is left out.

    Raises
    ------
    UnsuitableImage
        The image cannot be read, or is not what ``spec`` asks for; the reasons are those of the modules here.
    DecoderLost
        See ``ImageSource``.
    OSError
        A file is not there, or the disk fails.
    """
    with warnings.catch_warnings():
        # pydicom warns of values that break their VR, and repeats them: they are common, may identify the patient,
        # and none of them is used here without a check.
        warnings.simplefilter("ignore")
        if spec.kind == "projection":
            return _load_projection(paths, spec, source or PlainFiles())
        return _load_volume(paths, spec, source or PlainFiles())


def load_golden(path: Path, golden: GoldenImage, spec: InputSpec) -> Image:
    """Load the image of a golden case.

    Raises
    ------
    UnsuitableImage, ModelPackageError
        It is not what the model or the manifest says.
    """
    if golden.format == "nifti":
        return read_nifti(path, golden.modality)
    if golden.format == "invesalius":
        return read_invesalius(path, golden.modality)
    return load_image([path], spec).image


def _load_projection(paths: Sequence[Path], spec: InputSpec, source: ImageSource) -> LoadedImage:
    if len(paths) != 1:
        raise UnsuitableImage("several-images", "the model judges one radiograph", found=f"{len(paths)} images")
    file = source.read(paths[0])
    with malformed_header():
        return LoadedImage(projection_of(file, source.stored_values(file), spec), (file.dataset,))


def _load_volume(paths: Sequence[Path], spec: InputSpec, source: ImageSource) -> LoadedImage:
    files = [source.read(path) for path in paths]
    if not files:
        raise UnsuitableImage("too-few-slices", "the series has no images")
    with malformed_header():
        check_one_series(files)
        slices = ordered([found for file in files for found in slices_of(file)])
        grid = grid_of(slices, spec)
    if grid.shape[0] * grid.shape[1] * grid.shape[2] > MAX_PIXELS:
        raise UnsuitableImage(
            "too-large",
            "the series has no believable size",
            found=" × ".join(str(count) for count in grid.shape),
            expected=f"at most {MAX_PIXELS} voxels",
        )
    voxels = source.room(grid.shape)
    decoded: dict[int, np.ndarray] = {}
    for index, found in enumerate(slices):
        _put_frame(found, source, decoded, voxels[index])
    if any("PixelPaddingValue" in file.dataset for file in files):
        fill_padding(voxels)
    dataset = slices[0].file.dataset
    frame_of_reference = dataset.get("FrameOfReferenceUID")
    image = ImageVolume(
        voxels,
        grid,
        tuple(found.source for found in slices),
        str(frame_of_reference) if frame_of_reference else None,
        str(dataset.get("Modality", "")),
        any(_names_contrast_agent(file.dataset) for file in files),
    )
    return LoadedImage(image, _datasets_in_order(slices))


def _names_contrast_agent(dataset: Dataset) -> bool:
    agent = str(dataset.get("ContrastBolusAgent") or "").strip()
    return bool(dataset.get("ContrastBolusAgentSequence")) or not _NO_AGENT.fullmatch(agent)


def _put_frame(found: Slice, source: ImageSource, decoded: dict[int, np.ndarray], place: np.ndarray) -> None:
    """Put the physical values of one slice in its place; a multi-frame file is decoded once for all of its frames."""
    key = id(found.file)
    frames = decoded[key] if key in decoded else source.stored_values(found.file)
    if frames.shape[0] > 1:
        decoded[key] = frames
    physical_values(frames[found.frame_index], found.file.dataset, found.slope, found.intercept, place)


def _datasets_in_order(slices: Sequence[Slice]) -> tuple[Dataset, ...]:
    files: dict[int, ImageFile] = {id(found.file): found.file for found in slices}
    return tuple(file.dataset for file in files.values())
