"""An image on its way through a model's stages: to tensors by the steps of the manifest, and back.

Geometric steps (``orient``, ``resample``, the crops, ``resize``) are remembered, so that what the network says about
its own grid returns to the grid of the source image. All steps see slices at equal distances (``EvenStack``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.domain.image import Image, ImageVolume
from appliance.errors import UnsuitableImage
from appliance.imaging.even_stack import EvenStack
from appliance.imaging.foreground import ForegroundBox
from appliance.imaging.intensities import piecewise_linear, scale_range, scale_robust_max, standardize
from appliance.imaging.patient_grid import DIRECTIONS, PatientGrid
from appliance.imaging.quantiles import quantile
from appliance.imaging.resampling import resize_area, resize_linear, resize_nearest
from appliance.manifest.manifest import BoxSpec, StageSpec
from appliance.manifest.steps import (
    Affine,
    CropToBox,
    CropToForeground,
    Interpolation,
    Orient,
    PiecewiseLinear,
    Resample,
    Resize,
    ScaleQuantiles,
    ScaleRange,
    ScaleRobustMax,
    Standardize,
)

_Array = NDArray[Any]
_Undo = Callable[[_Array, bool], _Array]
"""Takes an array on the grid after a step, and whether to interpolate; returns it on the grid before the step."""

_RESIZE: Mapping[Interpolation, Callable[[_Array, tuple[int, ...]], _Array]] = {
    "nearest": resize_nearest,
    "linear": resize_linear,
    "area": resize_area,
}


class Preparation:
    """One image and one model.

    Parameters
    ----------
    image
        The source. Its voxels are never changed.
    """

    def __init__(self, image: Image) -> None:
        self._even: EvenStack | None = None
        if isinstance(image, ImageVolume):
            self._source: NDArray[np.float32] = image.voxels
            self._affine: NDArray[np.float64] | None = image.grid.affine
            if image.grid.places is not None:
                self._even = EvenStack(image.grid)
                self._source, self._affine = self._even.spread(image.voxels), self._even.affine
        else:
            self._source, self._affine = image.pixels, None
        self._undo: list[_Undo] = []
        self._quantiles: dict[str, tuple[float, float]] = {}
        self._located: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None

    def tensor(self, stage: StageSpec) -> NDArray[np.float32]:
        """Run the steps of a stage on the source; return float32 ``[1, 1, axes…]``, contiguous and the caller's own.

        Raises
        ------
        UnsuitableImage
            ``constant-image``, ``nothing-found`` when a box is empty, ``too-large``, or ``unsuitable-size`` when the
            network does not take the size that the image gets.
        """
        self._undo = []
        array: _Array = self._source
        for step in stage.steps:
            match step:
                case Orient():
                    array = self._orient(array, step.axes)
                case Resample():
                    array = self._resample(array, step)
                case CropToForeground():
                    array = self._crop_to_foreground(array, step, stage)
                case CropToBox():
                    array = self._crop(array, step.margin)
                case Resize():
                    array = self._resize(array, step)
                case ScaleQuantiles():
                    array = self._scale(array, step, stage.name)
                case ScaleRobustMax():
                    array = _own(array, self._source)
                    scale_robust_max(array, step.quantile, step.maximum)
                case ScaleRange():
                    array = _own(array, self._source)
                    scale_range(array)
                case Standardize():
                    array = _own(array, self._source)
                    standardize(array)
                case Affine():
                    array = _own(array, self._source)
                    array *= np.float32(step.scale)
                    array += np.float32(step.offset)
                case PiecewiseLinear():
                    array = _own(array, self._source)
                    piecewise_linear(array, step.knots)
        _check_size(array.shape, stage)
        return np.ascontiguousarray(array, dtype=np.float32)[None, None]

    def locate(self, output: NDArray[np.float32], spec: BoxSpec) -> None:
        """Keep the box around the largest connected part (26 neighbours) of a locating stage's output.

        Parameters
        ----------
        output
            ``[1, channel, axes…]``; channel 0 counts.

        Raises
        ------
        UnsuitableImage
            ``nothing-found``.
        """
        mask = output[0, 0] > spec.threshold
        parts, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
        if count == 0:
            raise _nothing_found()
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        mask = parts == sizes.argmax()
        low, high = [], []
        for axis in range(mask.ndim):
            others = tuple(other for other in range(mask.ndim) if other != axis)
            occupied = np.flatnonzero(mask.mean(axis=others) > spec.min_occupancy)
            if occupied.size == 0:
                raise _nothing_found()
            low.append(int(occupied[0]))
            high.append(int(occupied[-1]) + 1)
        self._located = (tuple(low), tuple(high), mask.shape)

    def restore(self, array: _Array, *, interpolate: bool) -> _Array:
        """Bring an array from the grid of the last ``tensor`` back to that of the source; outside of a crop it is 0.

        Parameters
        ----------
        array
            ``[axes…]`` of any type; only float32 can be interpolated.
        """
        for undo in reversed(self._undo):
            array = undo(array, interpolate)
        return array if self._even is None else self._even.gather(array, interpolate=interpolate)

    def _orient(self, array: _Array, axes: str) -> _Array:
        """A view whose axes increase toward the named directions of the patient, as nearly as axes can."""
        assert self._affine is not None  # the manifest allows this step for volumes only
        directions = self._affine[:3, :3] / np.linalg.norm(self._affine[:3, :3], axis=0)
        wanted = [DIRECTIONS[letter] for letter in axes]
        order = _best_order(directions, [axis for axis, _ in wanted])
        flips = tuple(
            slice(None, None, 1 if directions[axis, source] * sign > 0 else -1)
            for (axis, sign), source in zip(wanted, order, strict=True)
        )

        def undo(result: _Array, interpolate: bool) -> _Array:
            return np.ascontiguousarray(np.transpose(result[flips], np.argsort(order)))

        self._undo.append(undo)
        return np.transpose(array, order)[flips]

    def _resample(self, array: _Array, step: Resample) -> _Array:
        assert self._affine is not None  # the manifest allows this step for volumes only, and before all other geometry
        grid = PatientGrid(array.shape, self._affine, spacing_mm=step.spacing_mm, axes=step.axes)
        self._undo.append(lambda result, interpolate: grid.restore(result, interpolate=interpolate))
        return grid.resample(array)

    def _crop_to_foreground(self, array: _Array, step: CropToForeground, stage: StageSpec) -> _Array:
        assert stage.profile is not None  # so the manifest says
        box = ForegroundBox(array, step, tuple(stage.profile.min[2:]), tuple(stage.input_shape[2:]))
        self._undo.append(lambda result, interpolate: box.put_back(result))
        return box.cut(array)

    def _crop(self, array: _Array, margin: float) -> _Array:
        assert self._located is not None  # the manifest has a locating stage before this step
        low, high, grid = self._located
        box = tuple(
            _enlarged(size, samples, start, stop, margin)
            for size, samples, start, stop in zip(array.shape, grid, low, high, strict=True)
        )
        shape = array.shape

        def undo(result: _Array, interpolate: bool) -> _Array:
            whole = np.zeros(shape, dtype=result.dtype)
            whole[box] = result
            return whole

        self._undo.append(undo)
        return array[box]

    def _resize(self, array: _Array, step: Resize) -> _Array:
        before = array.shape

        def undo(result: _Array, interpolate: bool) -> _Array:
            return resize_linear(result, before) if interpolate else resize_nearest(result, before)

        self._undo.append(undo)
        return _RESIZE[step.interpolation](array, tuple(step.shape))

    def _scale(self, array: _Array, step: ScaleQuantiles, stage: str) -> _Array:
        if step.of_stage is not None:
            low, high = self._quantiles[step.of_stage]
        else:
            low, high = quantile(array, step.low), quantile(array, step.high)
            self._quantiles[stage] = (low, high)
        if not high > low:
            raise UnsuitableImage(
                "constant-image",
                "the image has no contrast",
                found=f"{step.low:g} and {step.high:g} quantiles that are equal",
                mend="Check the detector and the transfer; send the image again",
            )
        array = array - np.float32(low)
        array /= np.float32(high - low)
        return np.clip(array, 0.0, 1.0, out=array)


def _own(array: _Array, source: _Array) -> _Array:
    """The array itself when it may be written to, else a copy: the source belongs to the image."""
    if np.may_share_memory(array, source):
        return np.array(array, dtype=np.float32)
    return array


def _check_size(shape: tuple[int, ...], stage: StageSpec) -> None:
    """Refuse an image whose size, which free axes leave to the image, is none that the network takes."""
    if stage.profile is None:
        return
    least, most = stage.profile.min[2:], stage.input_shape[2:]
    if any(not low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
        raise UnsuitableImage(
            "unsuitable-size",
            "the image is too large or too small for the model",
            found=" × ".join(str(size) for size in shape),
            expected=f"{' × '.join(map(str, least))} to {' × '.join(map(str, most))}",
        )


def _best_order(directions: NDArray[np.float64], wanted: Sequence[int]) -> tuple[int, ...]:
    """For each wanted patient axis the array axis that lies nearest to it, each used once."""
    strength = np.abs(directions)
    orders = [(a, b, c) for a in range(3) for b in range(3) for c in range(3) if len({a, b, c}) == 3]
    return max(
        orders, key=lambda order: sum(strength[axis, source] for axis, source in zip(wanted, order, strict=True))
    )


def _enlarged(size: int, samples: int, start: int, stop: int, margin: float) -> slice:
    """The range of an axis of ``size`` that a range of ``samples`` covers, with a margin at both ends.

    Rounds as the published pipeline of deepbet does: in float32, halves to even, toward zero at the ends.
    """
    scale = np.float32(size / samples)
    centre = np.round(scale * np.float32(start + stop) / np.float32(2))
    width = np.round((np.float32(1) + np.float32(2) * np.float32(margin)) * (scale * np.float32(stop - start)))
    half = width / np.float32(2)
    return slice(max(0, int(centre - half)), min(size, int(centre + half)))


def _nothing_found() -> UnsuitableImage:
    return UnsuitableImage(
        "nothing-found",
        "the model did not find what it looks for",
        mend="Check that the series shows the body part that the model is for",
    )
