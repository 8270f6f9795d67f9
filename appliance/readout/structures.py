"""Masks: from probabilities or labels, cleaned of stray parts and holes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import ModelPackageError
from appliance.manifest.readout import Readout, StructureSpec
from appliance.readout.parts import bounding_box

Restore = Callable[..., NDArray[Any]]
"""``restore(array, interpolate=…)``: from the model's grid to that of the source image."""


def masks_of(output: NDArray[Any], readout: Readout, restore: Restore) -> list[NDArray[np.bool_]]:
    """Return one mask for each structure that the network outlines, on the grid of the source image.

    Parameters
    ----------
    output
        Of the last stage: float32 ``[1, channel, axes…]``; for kind labels, whole numbers ``[1, 1, axes…]`` as well.
    restore
        Brings one channel back to the source's grid.

    Raises
    ------
    ModelPackageError
        A structure names a channel that the output does not have, or the output is not of the manifest's kind.
    """
    if output.dtype.kind in "ui" and (readout.kind != "labels" or output.shape[1] != 1):
        raise ModelPackageError(
            "the network gives whole numbers where the manifest names something else",
            found=f"{output.shape[1]} channel(s) of {output.dtype}, readout.kind {readout.kind}",
            expected="one channel of labels with kind labels, float32 otherwise",
            mend="Correct readout.kind of the manifest",
        )
    if output.dtype.kind in "ui":
        return _masks_of_labels(output[0, 0], readout, restore)
    last = max(channel for channel, _ in readout.outlined)
    if last >= output.shape[1]:
        raise ModelPackageError(
            "the manifest names a channel that the network does not have",
            found=f"channel {last}",
            expected=f"0 to {output.shape[1] - 1}",
            mend="Correct readout.structures of the manifest",
        )
    if readout.kind == "labels":
        # Before the way back, which would move a float for each channel instead of one byte.
        return _masks_of_labels(_winners(output[0]), readout, restore)
    interpolate = readout.restore == "linear"
    channels = [output[0, channel] for channel, _ in readout.outlined]
    if readout.kind == "threshold" and not interpolate:
        # Thresholding first gives the same and moves a quarter of the bytes.
        raw = [restore(channel > readout.threshold, interpolate=False) for channel in channels]
    elif readout.kind == "threshold":
        raw = [restore(channel, interpolate=True) > readout.threshold for channel in channels]
    else:
        raw = _likeliest([restore(channel, interpolate=interpolate) for channel in channels], readout.threshold)
    return [cleaned(mask, structure) for mask, (_, structure) in zip(raw, readout.outlined, strict=True)]


def _masks_of_labels(labels: NDArray[Any], readout: Readout, restore: Restore) -> list[NDArray[np.bool_]]:
    labels = restore(labels, interpolate=False)
    return [cleaned(labels == channel, structure) for channel, structure in readout.outlined]


def _winners(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The channel with the highest score, the first of equals: uint8 ``[axes…]`` of ``[channel, axes…]``."""
    winners = np.zeros(scores.shape[1:], dtype=np.uint8)
    # Plane by plane, which stays in the cache: numpy's argmax along the first axis takes a third longer.
    for plane, labels in enumerate(winners):
        best = scores[0, plane].copy()
        for channel in range(1, scores.shape[0]):
            candidate = scores[channel, plane]
            np.copyto(labels, channel, where=candidate > best)
            np.maximum(best, candidate, out=best)
    return winners


def _likeliest(channels: list[NDArray[np.float32]], threshold: float) -> list[NDArray[np.bool_]]:
    """Where the structures together reach the threshold, the mask of the likeliest of them (the first of equals)."""
    together, likeliest = channels[0].copy(), channels[0].copy()
    masks = [np.ones(together.shape, dtype=np.bool_)]
    for channel in channels[1:]:
        together += channel
        wins = channel > likeliest
        for mask in masks:
            mask &= ~wins
        masks.append(wins)
        np.maximum(likeliest, channel, out=likeliest)
    anywhere = together >= threshold
    for mask in masks:
        mask &= anywhere
    return masks


def cleaned(mask: NDArray[np.bool_], structure: StructureSpec) -> NDArray[np.bool_]:
    """Keep the largest connected parts and fill holes, as the manifest says; parts touch by corners too."""
    box = bounding_box(mask)
    if box is None or not (structure.components or structure.fill_holes):
        return mask
    inside = mask[box]
    if structure.components:
        parts, count = ndimage.label(inside, structure=np.ones((3,) * mask.ndim))
        if count > structure.components:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            kept = np.zeros(count + 1, dtype=np.bool_)
            kept[np.argsort(sizes)[-structure.components :]] = True
            inside = kept[parts]
    if structure.fill_holes:
        inside = _filled(inside)
    result = np.zeros_like(mask)
    result[box] = inside
    return result


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill what the mask encloses: every part of the background (touching by faces) that reaches no edge of the box."""
    parts, count = ndimage.label(~mask)
    outside = np.zeros(count + 1, dtype=np.bool_)
    for axis in range(mask.ndim):
        for edge in (0, -1):
            outside[parts.take(edge, axis=axis)] = True
    outside[0] = True  # label 0 is the mask itself
    holes = ~outside
    return mask | holes[parts] if holes.any() else mask
