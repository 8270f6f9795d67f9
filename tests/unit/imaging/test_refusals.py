"""What no model can judge is refused, each with its own reason; no message repeats what identifies a patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.uid import UID, RLELossless

from appliance.errors import UnsuitableImage
from appliance.imaging.loading import load_image
from appliance.manifest.manifest import InputSpec
from tests.support.dicom_factory import (
    SAGITTAL,
    Stack,
    chest_pixels,
    enhanced_mr,
    mr_series,
    mr_voxels,
    radiograph,
    write_datasets,
)

VOLUME = InputSpec(kind="volume")
PROJECTION = InputSpec(kind="projection")


def series(slices: int = 6, stack: Stack | None = None, number: int = 1) -> list[Dataset]:
    return mr_series(mr_voxels(slices, 10, 8), stack, series=number)


def refused(datasets: list[Dataset], folder: Path, spec: InputSpec = VOLUME) -> UnsuitableImage:
    return refused_files(write_datasets(datasets, folder), spec)


def refused_files(paths: list[Path], spec: InputSpec = VOLUME) -> UnsuitableImage:
    with pytest.raises(UnsuitableImage) as caught:
        load_image(paths, spec)
    message = str(caught.value)
    assert "Phantom" not in message and "PHANTOM" not in message and "2.25." not in message
    return caught.value


def moved(dataset: Dataset, *, by_mm: tuple[float, float, float]) -> None:
    position = np.asarray(dataset.ImagePositionPatient, dtype=float) + by_mm
    dataset.ImagePositionPatient = [f"{value:.6g}" for value in position]


def without_geometry(datasets: list[Dataset]) -> None:
    del datasets[2].ImagePositionPatient


def without_orientation(datasets: list[Dataset]) -> None:
    datasets[0].ImageOrientationPatient = []


def skewed_orientation(datasets: list[Dataset]) -> None:
    datasets[1].ImageOrientationPatient = ["1", "0", "0", "0.5", "0.8", "0"]


def zero_spacing(datasets: list[Dataset]) -> None:
    datasets[1].PixelSpacing = ["0", "1"]


def other_orientation(datasets: list[Dataset]) -> None:
    datasets[3].ImageOrientationPatient = [str(x) for direction in SAGITTAL for x in direction]


def other_size(datasets: list[Dataset]) -> None:
    datasets[3].Rows, datasets[3].Columns = 8, 10


def other_pixel_spacing(datasets: list[Dataset]) -> None:
    datasets[3].PixelSpacing = ["1.1", "1.1"]


def other_frame_of_reference(datasets: list[Dataset]) -> None:
    datasets[3].FrameOfReferenceUID = "1.2.3"


def other_modality(datasets: list[Dataset]) -> None:
    datasets[3].Modality = "CT"


def other_series(datasets: list[Dataset]) -> None:
    datasets.extend(series(2, Stack(origin_mm=(-10.0, -20.0, 36.0)), number=2))


def localizer(datasets: list[Dataset]) -> None:
    datasets[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def same_place(datasets: list[Dataset]) -> None:
    datasets[2].ImagePositionPatient = datasets[1].ImagePositionPatient


def missing_slice(datasets: list[Dataset]) -> None:
    del datasets[2]


def uneven(datasets: list[Dataset]) -> None:
    for dataset in datasets[3:]:
        moved(dataset, by_mm=(0, 0, 0.6))


def beside_the_line(datasets: list[Dataset]) -> None:
    moved(datasets[2], by_mm=(2.0, 0, 0))


def colour(datasets: list[Dataset]) -> None:
    datasets[0].PhotometricInterpretation = "RGB"
    datasets[0].SamplesPerPixel = 3


def grey_and_colour(datasets: list[Dataset]) -> None:
    datasets[0].PixelPresentation = "MIXED"


def no_pixels(datasets: list[Dataset]) -> None:
    del datasets[4].PixelData


def short_pixels(datasets: list[Dataset]) -> None:
    datasets[4].PixelData = datasets[4].PixelData[:-2]


def absurd_size(datasets: list[Dataset]) -> None:
    datasets[0].Rows = datasets[0].Columns = 65535


def no_rows(datasets: list[Dataset]) -> None:
    del datasets[0].Rows


def bad_bits(datasets: list[Dataset]) -> None:
    datasets[0].BitsStored = 17


def bad_high_bit(datasets: list[Dataset]) -> None:
    datasets[0].HighBit = 4


def bad_rescale(datasets: list[Dataset]) -> None:
    datasets[0].RescaleSlope = "0"


def all_padding(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.PixelData = bytes(len(dataset.PixelData))
        dataset.add_new("PixelPaddingValue", "US", 0)


@pytest.mark.parametrize(
    ("reason", "spoil"),
    [
        ("missing-geometry", without_geometry),
        ("missing-geometry", without_orientation),
        ("missing-geometry", skewed_orientation),
        ("missing-geometry", zero_spacing),
        ("mixed-orientation", other_orientation),
        ("mixed-size", other_size),
        ("mixed-size", other_pixel_spacing),
        ("mixed-frame-of-reference", other_frame_of_reference),
        ("mixed-modality", other_modality),
        ("mixed-series", other_series),
        ("localizer", localizer),
        ("duplicate-position", same_place),
        ("slice-gap", missing_slice),
        ("uneven-spacing", uneven),
        ("uneven-spacing", beside_the_line),
        ("colour", colour),
        ("colour", grey_and_colour),
        ("no-pixel-data", no_pixels),
        ("truncated", short_pixels),
        ("too-large", absurd_size),
        ("malformed-header", no_rows),
        ("malformed-header", bad_bits),
        ("malformed-header", bad_high_bit),
        ("malformed-header", bad_rescale),
        ("constant-image", all_padding),
    ],
)
def test_a_spoilt_series_is_refused(reason: str, spoil: Callable[[list[Dataset]], None], tmp_path: Path) -> None:
    datasets = series(9)
    spoil(datasets)
    assert refused(datasets, tmp_path).reason == reason


@pytest.mark.parametrize(("slope", "intercept"), [("1e38", "0"), ("1e300", "0"), ("1e-46", "0"), ("1", "1e39")])
def test_a_rescale_beyond_float32_is_refused(slope: str, intercept: str, tmp_path: Path) -> None:
    """Values would become infinite, or all the same."""
    datasets = series(3)
    for dataset in datasets:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
    assert refused(datasets, tmp_path).reason == "malformed-header"


def test_errors_of_position_that_add_up_are_refused(tmp_path: Path) -> None:
    """No step is off by more than 4 %, but in the middle of 80 slices the positions are two slices off."""
    datasets = series(80)
    for index, dataset in enumerate(datasets):
        moved(dataset, by_mm=(0, 0, 0.04 * min(index, 40)))
    assert refused(datasets, tmp_path).reason == "uneven-spacing"


def test_the_gap_is_counted(tmp_path: Path) -> None:
    datasets = series(12)
    del datasets[4:6]
    message = str(refused(datasets, tmp_path))
    assert "2 missing in 1 gap(s)" in message and "a slice every 1.00 mm" in message


def test_tilt_is_refused(tmp_path: Path) -> None:
    error = refused(series(6, Stack(step_mm=(0.0, 0.35, 1.0))), tmp_path)
    assert error.reason == "gantry-tilt"
    assert "19.3°" in str(error)


@pytest.mark.parametrize(
    ("reason", "keyword", "values"),
    [
        ("several-time-points", "TemporalPositionIdentifier", ("1", "2")),
        ("several-echoes", "EchoTime", ("2.4", "90")),
        ("several-image-types", "ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])),
        ("several-acquisitions", "AcquisitionNumber", ("1", "2")),
    ],
)
def test_what_repeats_the_positions_is_named(
    reason: str, keyword: str, values: tuple[object, object], tmp_path: Path
) -> None:
    datasets = series(6) + series(6)
    for index, dataset in enumerate(datasets):
        setattr(dataset, keyword, values[index // 6])
    error = refused(datasets, tmp_path)
    assert error.reason == reason
    assert "2 " in str(error.found)


def test_time_points_of_an_enhanced_image_are_named(tmp_path: Path) -> None:
    dataset = enhanced_mr(mr_voxels(6, 10, 8))
    groups = dataset.PerFrameFunctionalGroupsSequence
    for index, group in enumerate(groups):
        group.PlanePositionSequence = groups[index % 3].PlanePositionSequence
        group.FrameContentSequence[0].TemporalPositionIndex = index // 3 + 1
    assert refused([dataset], tmp_path).reason == "several-time-points"


def test_a_second_stack_in_an_enhanced_image_is_refused(tmp_path: Path) -> None:
    dataset = enhanced_mr(mr_voxels(6, 10, 8))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        orientation = Dataset()
        orientation.ImageOrientationPatient = (
            shared.PlaneOrientationSequence[0].ImageOrientationPatient
            if index < 3
            else [str(x) for direction in SAGITTAL for x in direction]
        )
        group.PlaneOrientationSequence = [orientation]
        group.FrameContentSequence[0].StackID = str(index // 3 + 1)
    del shared.PlaneOrientationSequence
    assert refused([dataset], tmp_path).reason == "mixed-orientation"


def test_a_multi_frame_image_without_functional_groups_has_no_geometry(tmp_path: Path) -> None:
    dataset = enhanced_mr(mr_voxels(6, 10, 8))
    del dataset.PerFrameFunctionalGroupsSequence
    assert refused([dataset], tmp_path).reason == "missing-geometry"


def test_functional_groups_must_match_the_frames(tmp_path: Path) -> None:
    dataset = enhanced_mr(mr_voxels(6, 10, 8))
    del dataset.PerFrameFunctionalGroupsSequence[5]
    assert refused([dataset], tmp_path).reason == "malformed-header"


@pytest.mark.parametrize(
    ("reason", "limits"),
    [
        ("too-few-slices", {"min_slices": 7}),
        ("coarse-spacing", {"max_slice_spacing_mm": 0.9}),
        ("coarse-spacing", {"max_pixel_spacing_mm": 0.9}),
        ("small-extent", {"min_extent_mm": 7}),
    ],
)
def test_the_limits_of_the_manifest_hold(reason: str, limits: dict[str, float], tmp_path: Path) -> None:
    assert refused(series(6), tmp_path, InputSpec(kind="volume", **limits)).reason == reason  # type: ignore[arg-type]


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    assert refused(series(1), tmp_path).reason == "too-few-slices"


def test_no_files_are_no_volume() -> None:
    assert refused_files([]).reason == "too-few-slices"


@pytest.mark.parametrize("content", [b"", b"not DICOM at all" * 40, b"\0" * 128 + b"DICM"])
def test_what_is_not_dicom_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    assert refused_files([path]).reason in {"unreadable", "no-pixel-data"}


def test_a_length_of_two_gigabytes_is_refused(tmp_path: Path) -> None:
    """The element says 2 GB, the file ends: nothing is allocated for it."""
    (path,) = write_datasets(series(1), tmp_path)
    content = bytearray(path.read_bytes())
    at = content.index(b"\xe0\x7f\x10\x00OW")
    content[at + 8 : at + 12] = (2**31).to_bytes(4, "little")
    path.write_bytes(content[: at + 40])
    assert refused_files([path], PROJECTION).reason == "truncated"


def test_reports_have_no_pixels() -> None:
    assert refused_files([Path(str(get_testdata_file("reportsi.dcm")))]).reason == "no-pixel-data"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.113619.5.2", "1.2.3"])
def test_unknown_encodings_are_refused(syntax: str, tmp_path: Path) -> None:
    """MPEG-2, a private syntax of a vendor, and nonsense."""
    dataset = series(1)[0]
    dataset.compress(RLELossless)
    dataset.preamble = bytes(128)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    path = tmp_path / "a.dcm"
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    assert refused_files([path]).reason == "unsupported-transfer-syntax"


def test_damaged_compressed_pixels_are_refused(tmp_path: Path) -> None:
    datasets = series(3)
    for dataset in datasets:
        dataset.compress(RLELossless)
        dataset.PixelData = dataset.PixelData[:40] + bytes(len(dataset.PixelData) - 40)
    assert refused(datasets, tmp_path).reason == "undecodable"


def test_one_radiograph_at_a_time(tmp_path: Path) -> None:
    datasets = [radiograph(chest_pixels(16, 12)), radiograph(chest_pixels(16, 12), series=2)]
    assert refused(datasets, tmp_path, PROJECTION).reason == "several-images"


def test_a_multi_frame_radiograph_is_refused(tmp_path: Path) -> None:
    dataset = radiograph(chest_pixels(16, 12))
    dataset.NumberOfFrames = "2"
    dataset.PixelData = dataset.PixelData * 2
    assert refused([dataset], tmp_path, PROJECTION).reason == "several-images"


def test_a_coarse_radiograph_is_refused(tmp_path: Path) -> None:
    dataset = radiograph(chest_pixels(16, 12))
    dataset.EstimatedRadiographicMagnificationFactor = "1.1"
    spec = InputSpec(kind="projection", max_pixel_spacing_mm=0.15)
    assert refused([dataset], tmp_path, spec).reason == "coarse-spacing"


def test_what_is_gone_is_no_property_of_the_image(tmp_path: Path) -> None:
    """A file that is not there is the machine's trouble: the job is tried again."""
    with pytest.raises(FileNotFoundError):
        load_image([tmp_path / "gone.dcm"], VOLUME)
