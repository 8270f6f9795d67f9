"""Stored values become the values that the modality meant, in every encoding."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from appliance.domain.image import ImageVolume, ProjectionImage
from appliance.imaging.loading import load_image
from appliance.manifest.manifest import InputSpec
from tests.support.dicom_factory import chest_pixels, ct_series, ct_voxels, enhanced_ct, radiograph, write_datasets

VOLUME = InputSpec(kind="volume")
PROJECTION = InputSpec(kind="projection")
HU = ct_voxels(3, 40, 36)


def voxels(datasets: list[Dataset], folder: Path) -> NDArray[np.float32]:
    image = load_image(write_datasets(datasets, folder), VOLUME).image
    assert isinstance(image, ImageVolume)
    return image.voxels


def pixels_of(path: Path) -> NDArray[np.float32]:
    image = load_image([path], PROJECTION).image
    assert isinstance(image, ProjectionImage)
    return image.pixels


def written_as(dataset: Dataset, syntax: str, path: Path) -> Path:
    """The file in another encoding."""
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        dataset.compress(syntax)
    elif syntax == ExplicitVRBigEndian:
        size = dataset.BitsAllocated // 8
        dataset.PixelData = np.frombuffer(dataset.PixelData, f"<u{size}").astype(f">u{size}").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.preamble = bytes(128)
    dataset.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian)
    return path


SYNTAXES = pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
    ids=lambda syntax: syntax.name.split(",")[0].replace(" ", "-"),
)


@SYNTAXES
def test_every_encoding_gives_the_same_volume(syntax: str, tmp_path: Path) -> None:
    paths = [written_as(d, syntax, tmp_path / f"{i}.dcm") for i, d in enumerate(ct_series(HU))]
    image = load_image(paths, VOLUME).image
    assert isinstance(image, ImageVolume)
    assert np.array_equal(image.voxels, HU)


@SYNTAXES
def test_every_encoding_gives_the_same_frames(syntax: str, tmp_path: Path) -> None:
    image = load_image([written_as(enhanced_ct(HU), syntax, tmp_path / "a.dcm")], VOLUME).image
    assert isinstance(image, ImageVolume)
    assert np.array_equal(image.voxels, HU)


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_bigendian.dcm"]
)
def test_files_of_other_makers(name: str) -> None:
    """One MR image that others wrote in several encodings."""
    reference = pixels_of(Path(str(get_testdata_file("MR_small.dcm"))))
    assert np.array_equal(pixels_of(Path(str(get_testdata_file(name)))), reference)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("JPGExtended.dcm", (1024, 256)), ("JPEG2000.dcm", (1024, 256)), ("JPEGLSNearLossless_16.dcm", (50, 10))],
)
def test_lossy_files_decode(name: str, shape: tuple[int, int]) -> None:
    """12 bits in JPEG among them, which few decoders take."""
    pixels = pixels_of(Path(str(get_testdata_file(name))))
    assert pixels.shape == shape
    assert pixels.max() > pixels.min()


@pytest.mark.peer
@pytest.mark.parametrize("command", ["dcmcjpeg +e1", "dcmcjpeg +el", "dcmcjpls +el", "dcmcrle"])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_what_dcmtk_compressed(command: str, signed: bool, tmp_path: Path) -> None:
    """Lossless JPEG (both processes), which archives keep most images in, JPEG-LS and RLE; 12 bits, and 16 signed."""
    program, *options = command.split()
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (dcmtk)")
    datasets = ct_series(HU)
    for dataset, plane in zip(datasets, HU, strict=True):
        if signed:
            dataset.PixelRepresentation, dataset.RescaleIntercept = 1, "0"
            dataset.BitsStored, dataset.HighBit = 16, 15
            dataset.PixelData = plane.astype("<i2").tobytes()
    paths = write_datasets(datasets, tmp_path / "plain")
    compressed = [tmp_path / path.name for path in paths]
    for plain, packed in zip(paths, compressed, strict=True):
        subprocess.run([program, *options, plain, packed], check=True, capture_output=True)
    assert dcmread(compressed[0]).file_meta.TransferSyntaxUID.is_compressed
    image = load_image(compressed, VOLUME).image
    assert isinstance(image, ImageVolume)
    assert np.array_equal(image.voxels, HU)


def test_junk_above_the_stored_bits_is_cleared(tmp_path: Path) -> None:
    """Old devices keep overlay planes there."""
    datasets = ct_series(HU)
    for dataset in datasets:
        samples = np.frombuffer(dataset.PixelData, "<u2") | 0xA000
        dataset.PixelData = samples.tobytes()
    assert np.array_equal(voxels(datasets, tmp_path), HU)


def test_samples_may_end_at_another_bit(tmp_path: Path) -> None:
    """High Bit 13 of 12 stored bits, with junk on either side."""
    datasets = ct_series(HU)
    for dataset in datasets:
        samples = (np.frombuffer(dataset.PixelData, "<u2") << 2) | 0x8001
        dataset.PixelData, dataset.HighBit = samples.astype("<u2").tobytes(), 13
    assert np.array_equal(voxels(datasets, tmp_path), HU)


def test_signed_samples_of_twelve_bits(tmp_path: Path) -> None:
    datasets = ct_series(HU)
    for dataset, plane in zip(datasets, HU, strict=True):
        dataset.PixelRepresentation, dataset.RescaleIntercept = 1, "0"
        dataset.PixelData = ((plane.astype(np.int16) & 0x0FFF) | 0x3000).astype("<u2").tobytes()
    assert np.array_equal(voxels(datasets, tmp_path), HU)


@pytest.mark.parametrize("bits", [8, 32])
def test_samples_of_other_sizes(bits: int, tmp_path: Path) -> None:
    datasets = ct_series(np.arange(-1024, -1024 + 3 * 8 * 8, dtype=np.int16).reshape(3, 8, 8))
    for index, dataset in enumerate(datasets):
        stored = np.arange(index * 64, index * 64 + 64)
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit = bits - 1
        dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
        dataset.PixelData = stored.astype(f"<u{bits // 8}").tobytes()
    assert voxels(datasets, tmp_path).ravel().tolist() == list(range(-1024, -1024 + 192))


def test_a_modality_lut_goes_before_the_rescale(tmp_path: Path) -> None:
    dataset = radiograph(np.array([[0, 10, 11], [12, 13, 4000]], np.uint16))
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 10, 16])
    item.add_new("LUTData", "US", [500, 400, 300, 200])
    item.ModalityLUTType = "OD"
    dataset.ModalityLUTSequence = [item]
    (path,) = write_datasets([dataset], tmp_path)
    assert pixels_of(path).tolist() == [[500, 500, 400], [300, 200, 200]]


@pytest.mark.parametrize("padding", [("SS", -2000), ("US", 65536 - 2000)], ids=["signed", "with-the-wrong-sign"])
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian], ids=["explicit", "implicit"])
def test_padding_becomes_the_darkest_tissue(padding: tuple[str, int], syntax: str | None, tmp_path: Path) -> None:
    """As of the whole volume, so that a slice of padding alone is as dark as its neighbours."""
    datasets = ct_series(HU)
    paths = []
    for index, (dataset, plane) in enumerate(zip(datasets, HU, strict=True)):
        stored = plane.astype(np.int16).copy()
        stored[:2] = -2000
        if index == 0:
            stored[:] = -2000
        dataset.PixelRepresentation, dataset.RescaleIntercept = 1, "0"
        dataset.BitsStored, dataset.HighBit = 16, 15
        dataset.add_new("PixelPaddingValue", *padding)
        dataset.PixelData = stored.astype("<i2").tobytes()
        paths.append(tmp_path / f"{index}.dcm")
        if syntax is None:
            dataset.save_as(paths[-1], enforce_file_format=True)
        else:
            written_as(dataset, syntax, paths[-1])
    image = load_image(paths, VOLUME).image
    assert isinstance(image, ImageVolume)
    expected = HU.astype(np.float32)
    expected[:, :2] = -1000
    expected[0] = -1000
    assert np.array_equal(image.voxels, expected)


def test_a_range_of_padding(tmp_path: Path) -> None:
    dataset = radiograph(np.array([[0, 1, 2], [3, 400, 500]], np.uint16))
    dataset.add_new("PixelPaddingValue", "US", 2)
    dataset.add_new("PixelPaddingRangeLimit", "US", 0)
    (path,) = write_datasets([dataset], tmp_path)
    assert pixels_of(path).tolist() == [[3, 3, 3], [3, 400, 500]]


def test_the_image_cannot_be_changed(tmp_path: Path) -> None:
    (path,) = write_datasets([radiograph(chest_pixels(8, 8))], tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        pixels_of(path)[0, 0] = 1
