"""Steps to tensors and back: what the network says lands on the voxels that it saw."""

from __future__ import annotations

from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter

from appliance.domain.geometry import Grid
from appliance.domain.image import ImageVolume, ProjectionImage, SourceFrame
from appliance.errors import UnsuitableImage
from appliance.imaging.preparation import Preparation
from appliance.imaging.quantiles import quantile
from appliance.imaging.resampling import nearest_indices, resize_area, resize_linear, resize_nearest
from appliance.manifest.manifest import BoxSpec, StageSpec
from tests.support.dicom_factory import AXIAL, CORONAL, SAGITTAL, Stack

TILTED_HEAD = ((0.8, 0.36, 0.48), (-0.6, 0.48, 0.64))
ORIENTATIONS = [AXIAL, SAGITTAL, CORONAL, TILTED_HEAD]


def volume(voxels: NDArray[Any], stack: Stack | None = None) -> ImageVolume:
    return ImageVolume(
        voxels=voxels.astype(np.float32),
        grid=Grid(voxels.shape, (stack or Stack()).affine()),  # type: ignore[arg-type]
        frames=tuple(SourceFrame("1.2", f"1.2.{index}") for index in range(voxels.shape[0])),
        frame_of_reference_uid=None,
        modality="MR",
    )


def radiograph(pixels: NDArray[Any]) -> ProjectionImage:
    return ProjectionImage(pixels.astype(np.float32), None, "", None, SourceFrame("1.2", "1.2.3"), "DX")


def stage(*steps: dict[str, Any], name: str = "only", axes: int = 3) -> StageSpec:
    return StageSpec(
        name=name,
        weights="a.onnx",
        input_tensor="x",
        input_shape=[1, 1, *[1] * axes],
        steps=TypeAdapter(StageSpec.model_fields["steps"].annotation).validate_python(list(steps)),
        output_tensor="y",
    )


def orient(axes: str) -> dict[str, Any]:
    return {"step": "orient", "axes": axes}


def resize(*shape: int, interpolation: str = "nearest") -> dict[str, Any]:
    return {"step": "resize", "shape": list(shape), "interpolation": interpolation}


def scale(low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"step": "scale_quantiles", "low": low, "high": high, **more}


RAMP = np.arange(5 * 6 * 7).reshape(5, 6, 7)


class TestOrient:
    @pytest.mark.parametrize("axes", ["RAS", "LPS", "LIA", "SPR", "ASL"])
    @pytest.mark.parametrize(("row", "column"), ORIENTATIONS)
    def test_agrees_with_nibabel(self, row: tuple[float, ...], column: tuple[float, ...], axes: str) -> None:
        """nibabel's patient system is RAS: x and y have the other sign."""
        stack = Stack(row, column, (2.0, 1.0, 1.5))
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ stack.affine()
        there = nibabel.orientations.ornt_transform(
            nibabel.orientations.io_orientation(affine), nibabel.orientations.axcodes2ornt(tuple(axes))
        )
        expected = nibabel.orientations.apply_orientation(RAMP.astype(np.float32), there)
        tensor = Preparation(volume(RAMP, stack)).tensor(stage(orient(axes)))
        assert tensor.shape == (1, 1, *expected.shape)
        assert np.array_equal(tensor[0, 0], expected)
        assert tensor.flags.c_contiguous

    @pytest.mark.parametrize(("row", "column"), ORIENTATIONS)
    def test_comes_back(self, row: tuple[float, ...], column: tuple[float, ...]) -> None:
        preparation = Preparation(volume(RAMP, Stack(row, column)))
        tensor = preparation.tensor(stage(orient("RAS")))
        assert np.array_equal(preparation.restore(tensor[0, 0], interpolate=False), RAMP)


class TestResampling:
    def test_nearest_takes_the_sample_at_the_centre(self) -> None:
        assert nearest_indices(4, 8).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert nearest_indices(8, 4).tolist() == [1, 3, 5, 7]
        assert nearest_indices(6, 4).tolist() == [0, 2, 3, 5]
        assert nearest_indices(1, 3).tolist() == [0, 0, 0]

    @pytest.mark.parametrize(("size", "samples"), [(192, 128), (256, 128), (178, 256)])
    def test_nearest_is_exact_on_the_grids_of_deepbet(self, size: int, samples: int) -> None:
        """By whole numbers: the sample whose range holds the centre, the upper one where the centre is on a border."""
        expected = [(2 * index + 1) * size // (2 * samples) for index in range(samples)]
        assert nearest_indices(size, samples).tolist() == expected

    @given(st.integers(1, 600), st.integers(1, 600))
    def test_nearest_stays_inside_and_symmetric(self, size: int, samples: int) -> None:
        indices = nearest_indices(size, samples)
        assert indices.min() >= 0 and indices.max() < size
        assert np.all(np.abs(indices + 0.5 - (np.arange(samples) + 0.5) * size / samples) <= 0.5 + 1e-3)

    @given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
    def test_the_order_of_the_axes_does_not_matter(self, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        array = np.random.default_rng(1).random(before, dtype=np.float32)
        picked = array[np.ix_(*(nearest_indices(a, b) for a, b in zip(before, after, strict=True)))]
        assert np.array_equal(resize_nearest(array, after), picked)
        assert resize_linear(array, after).shape == after

    def test_linear_keeps_a_ramp(self) -> None:
        """Half-pixel centres: between the centres of the outermost samples a ramp stays the same ramp in mm."""
        ramp = np.arange(8, dtype=np.float32)
        found = resize_linear(ramp, (16,))
        assert np.allclose(found, np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7))

    def test_linear_of_one_sample(self) -> None:
        assert resize_linear(np.array([[3.0]], np.float32), (4, 5)).tolist() == [[3.0] * 5] * 4

    def test_linear_to_half_the_samples_averages_each_eight(self) -> None:
        noise = np.random.default_rng(2).random((6, 8, 10))
        tensor = Preparation(volume(noise, Stack(*ORIENTATIONS[0]))).tensor(
            stage(resize(3, 4, 5, interpolation="linear"))
        )
        assert np.allclose(tensor[0, 0], noise.reshape(3, 2, 4, 2, 5, 2).mean(axis=(1, 3, 5)), atol=1e-6)

    def test_area_keeps_the_mean(self) -> None:
        """A checkerboard of single pixels becomes grey, not black or white."""
        board = (np.indices((90, 120)).sum(axis=0) % 2).astype(np.float32)
        assert np.allclose(resize_area(board, (30, 40)), 0.5, atol=0.06)


class TestQuantiles:
    @given(
        st.integers(0, 2**32 - 1),
        st.sampled_from([1, 2, 7, 1000, 70_001]),
        st.sampled_from(["normal", "integers", "sorted", "two"]),
        st.floats(0, 1),
    )
    @settings(max_examples=60, deadline=None)
    def test_agree_with_numpy(self, seed: int, size: int, kind: str, q: float) -> None:
        random = np.random.default_rng(seed)
        values = {
            "normal": lambda: random.normal(size=size),
            "integers": lambda: random.integers(0, 12, size),
            "sorted": lambda: np.sort(random.normal(size=size)),
            "two": lambda: np.where(random.random(size) < 0.3, 0.0, 9.0),
        }[kind]().astype(np.float32)
        assert quantile(values, q) == pytest.approx(float(np.quantile(values.astype(np.float64), q)), abs=1e-6)


class TestIntensities:
    VOXELS = np.random.default_rng(5).normal(100, 20, (6, 7, 8))

    def test_quantiles_become_zero_and_one(self) -> None:
        tensor = Preparation(volume(self.VOXELS)).tensor(stage(scale(0.1, 0.9)))[0, 0]
        low, high = np.quantile(self.VOXELS.astype(np.float32), (0.1, 0.9))
        assert np.allclose(tensor, np.clip((self.VOXELS - low) / (high - low), 0, 1), atol=1e-5)

    def test_quantiles_of_an_earlier_stage(self) -> None:
        """Of the whole image, used for the part that a later stage looks at."""
        preparation = Preparation(volume(self.VOXELS))
        preparation.tensor(stage(scale(0.0, 1.0), name="locate"))
        mask = np.zeros((1, 1, 6, 7, 8), np.float32)
        mask[..., 2:4, 2:5, 2:5] = 1
        preparation.locate(mask, BoxSpec(threshold=0.5))
        later = preparation.tensor(stage({"step": "crop_to_box"}, scale(0.0, 1.0, of_stage="locate")))[0, 0]
        low, high = self.VOXELS.min(), self.VOXELS.max()
        assert np.allclose(later, (self.VOXELS[2:4, 2:5, 2:5] - low) / (high - low), atol=1e-5)

    def test_standardize_and_affine(self) -> None:
        steps = ({"step": "standardize"}, {"step": "affine", "scale": 0.226, "offset": 0.449})
        tensor = Preparation(volume(self.VOXELS)).tensor(stage(*steps))[0, 0]
        assert float(tensor.mean()) == pytest.approx(0.449, abs=1e-5)
        assert float(tensor.std(ddof=1)) == pytest.approx(0.226, abs=1e-5)

    def test_the_robust_maximum_is_that_of_freesurfer(self) -> None:
        """Its rule, as published: a histogram of 1000 bins, and the share counted among what is not 0."""
        voxels = np.zeros((40, 40, 40), np.float32)
        voxels[8:32, 8:32, 8:32] = np.random.default_rng(3).gamma(4.0, 100.0, (24, 24, 24))
        counts, edges = np.histogram(voxels, 1000)
        exceeding = int((1 - 0.999) * np.count_nonzero(voxels))
        high = edges[np.flatnonzero(np.cumsum(counts) >= voxels.size - exceeding)[0]]
        tensor = Preparation(volume(voxels)).tensor(stage({"step": "scale_robust_max"}))[0, 0]
        bin_width = edges[1] * 255 / high
        assert np.abs(tensor - np.clip(voxels * 255 / high, 0, 255)).max() < 2 * bin_width
        assert tensor.max() == 255

    def test_empty_space_does_not_change_the_robust_maximum(self) -> None:
        step = {"step": "scale_robust_max", "quantile": 0.9, "maximum": 1}
        head = np.random.default_rng(4).uniform(1, 100, (12, 12, 12))
        head[0, 0, 0] = 0
        alone = Preparation(volume(head)).tensor(stage(step))[0, 0]
        surrounded = Preparation(volume(np.pad(head, 20))).tensor(stage(step))[0, 0]
        assert np.allclose(surrounded[20:-20, 20:-20, 20:-20], alone, atol=1e-3)

    def test_a_range_becomes_zero_and_one(self) -> None:
        tensor = Preparation(volume(self.VOXELS)).tensor(stage({"step": "scale_range"}))[0, 0]
        low, high = self.VOXELS.min(), self.VOXELS.max()
        assert np.allclose(tensor, (self.VOXELS - low) / (high - low), atol=1e-6)

    def test_values_along_knots(self) -> None:
        """Hounsfield units stretched where brain is, as published: ``v = max(HU + 1000, 0)``, ten times from 900 on."""
        knots = [[-1000, 0], [-100, 900], [100, 3100], [3000, 6000]]
        hu = np.array([-3024, -1000, -500, -100, -50, 0, 35, 99, 100, 101, 1500, 3000, 3071]).reshape(1, 1, 13)
        tensor = Preparation(volume(hu)).tensor(stage({"step": "piecewise_linear", "knots": knots}))[0, 0]
        shifted = np.clip(np.minimum(hu, 3000) + 1000.0, 0, None)
        assert np.allclose(tensor, shifted + 10 * np.clip(shifted - 900, 0, 200), atol=1e-3)

    def test_the_image_is_left_as_it_was(self) -> None:
        image = volume(self.VOXELS)
        before = image.voxels.copy()
        scalings: tuple[dict[str, Any], ...] = (
            {"step": "scale_range"},
            {"step": "scale_robust_max"},
            {"step": "piecewise_linear", "knots": [[0, 0], [100, 1]]},
        )
        for step in scalings:
            Preparation(image).tensor(stage(step))[:] = 0
        steps = ({"step": "affine", "scale": 2, "offset": 1}, {"step": "standardize"}, scale(0.1, 0.9))
        tensor = Preparation(image).tensor(stage(*steps))
        tensor[:] = 0
        assert np.array_equal(image.voxels, before)

    @pytest.mark.parametrize(
        "step", [scale(0.01, 0.99), *({"step": name} for name in ("standardize", "scale_range", "scale_robust_max"))]
    )
    def test_a_constant_image_is_refused(self, step: dict[str, Any]) -> None:
        with pytest.raises(UnsuitableImage) as caught:
            Preparation(volume(np.full((4, 4, 4), 7))).tensor(stage(step))
        assert caught.value.reason == "constant-image"


class TestBox:
    def located(self, mask: NDArray[Any], spec: BoxSpec, margin: float = 0.0) -> tuple[Preparation, NDArray[Any]]:
        preparation = Preparation(volume(np.arange(np.prod([20, 30, 40])).reshape(20, 30, 40)))
        preparation.tensor(stage(resize(10, 10, 10), name="locate"))
        preparation.locate(mask[None, None].astype(np.float32), spec)
        return preparation, preparation.tensor(stage({"step": "crop_to_box", "margin": margin}))[0, 0]

    def test_covers_what_was_found(self) -> None:
        mask = np.zeros((10, 10, 10))
        mask[2:4, 3:7, 5:6] = 1
        preparation, cropped = self.located(mask, BoxSpec(threshold=0.5))
        assert cropped.shape == (4, 12, 4)
        whole = preparation.restore(np.ones(cropped.shape, np.bool_), interpolate=False)
        assert whole.sum() == cropped.size
        assert whole[4:8, 9:21, 20:24].all()

    def test_grows_by_the_margin_and_ends_at_the_image(self) -> None:
        mask = np.zeros((10, 10, 10))
        mask[0:5, 2:7, 3:8] = 1
        _, cropped = self.located(mask, BoxSpec(threshold=0.5), margin=0.2)
        assert cropped.shape == (12, 21, 28)

    def test_is_around_the_largest_part(self) -> None:
        mask = np.zeros((10, 10, 10))
        mask[2:5, 2:5, 2:5] = 1
        mask[9, 9, 9] = 1
        _, cropped = self.located(mask, BoxSpec(threshold=0.5))
        assert cropped.shape == (6, 9, 12)

    def test_leaves_out_planes_that_are_nearly_empty(self) -> None:
        mask = np.zeros((10, 10, 10))
        mask[2:6, 2:6, 2:6] = 1
        mask[6, 5, 5] = 1
        _, cropped = self.located(mask, BoxSpec(threshold=0.5, min_occupancy=0.02))
        assert cropped.shape == (8, 12, 16)

    @pytest.mark.parametrize(
        ("values", "occupancy"), [(0.4, 0.0), (1.0, 0.5)], ids=["nothing-above", "nothing-large-enough"]
    )
    def test_nothing_found_is_refused(self, values: float, occupancy: float) -> None:
        mask = np.zeros((10, 10, 10))
        mask[2:4, 2:4, 2:4] = values
        with pytest.raises(UnsuitableImage) as caught:
            self.located(mask, BoxSpec(threshold=0.5, min_occupancy=occupancy))
        assert caught.value.reason == "nothing-found"


@given(
    orientation=st.sampled_from(ORIENTATIONS),
    descending=st.booleans(),
    shape=st.tuples(*[st.integers(24, 40)] * 3),
    axes=st.sampled_from(["RAS", "LIA", "LPS"]),
    samples=st.tuples(*[st.integers(32, 64)] * 3),
    place=st.tuples(*[st.floats(0.4, 0.6)] * 3),
    interpolate=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_ball_comes_back_to_its_place(
    orientation: tuple[tuple[float, ...], tuple[float, ...]],
    descending: bool,
    shape: tuple[int, int, int],
    axes: str,
    samples: tuple[int, int, int],
    place: tuple[float, float, float],
    interpolate: bool,
) -> None:
    """Located, cropped and resized as ``mr-brain-extract`` does: centre within half a voxel, volume within 10 %."""
    row, column = orientation
    step = np.cross(row, column) * (-1.2 if descending else 1.2)
    stack = Stack(row, column, (1.2, 1.0, 0.9), step_mm=tuple(float(x) for x in step))  # type: ignore[arg-type]
    centre = np.asarray(place) * (np.asarray(shape) - 1)
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), centre, strict=True)))
    ball = distance < 8
    preparation = Preparation(volume(ball * 100.0, stack))
    located = preparation.tensor(stage(orient(axes), resize(32, 32, 32), name="locate"))
    preparation.locate(located / 100, BoxSpec(threshold=0.5))
    tensor = preparation.tensor(stage(orient(axes), {"step": "crop_to_box", "margin": 0.1}, resize(*samples)))
    restored = preparation.restore(tensor[0, 0] / 100, interpolate=interpolate)
    found = restored > 0.5
    assert restored.shape == shape
    assert np.all(np.abs(np.argwhere(found).mean(axis=0) - np.argwhere(ball).mean(axis=0)) < 0.5)
    assert found.sum() == pytest.approx(ball.sum(), rel=0.1)


def test_a_radiograph_comes_back() -> None:
    y, x = np.mgrid[0:300, 0:240]
    disc = (y - 120) ** 2 + (x - 90) ** 2 < 50**2
    preparation = Preparation(radiograph(disc * 1000.0))
    tensor = preparation.tensor(stage(resize(64, 64, interpolation="area"), axes=2))
    assert tensor.shape == (1, 1, 64, 64)
    found = preparation.restore(tensor[0, 0] / 1000, interpolate=True) > 0.5
    assert found.shape == disc.shape
    assert 2 * (found & disc).sum() / (found.sum() + disc.sum()) > 0.98
