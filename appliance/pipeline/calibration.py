"""Images of the site for int8: chosen by the model itself, prepared as the pipeline prepares them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.domain.image import Image
from appliance.errors import ModelPackageError, UnsuitableImage
from appliance.manifest.manifest import StageSpec
from appliance.modelrepo.package import file_sha256
from appliance.pipeline.model import Model

FEWEST, MOST = 3, 32
"""Images: with fewer the ranges are chance, with more they hardly change."""


@dataclass(frozen=True, slots=True)
class SiteImages:
    """Images that a model can judge.

    Attributes
    ----------
    images
        The files of each.
    sha256
        Over all their bytes.
    left_out
        Why others are not among them → how many.
    """

    images: tuple[tuple[Path, ...], ...]
    sha256: str
    left_out: Counter[str]

    def load(self, model: Model) -> Iterator[Image]:
        """Each image, loaded when it is asked for."""
        for paths in self.images:
            yield model.load(paths).image

    def tensors(self, model: Model, stage: StageSpec) -> Iterator[NDArray[np.float32]]:
        """What a stage's network is given for each image, by a model that is open in float32."""
        for image in self.load(model):
            yield model.tensor(image, stage)


def choose_images(
    model: Model, candidates: Sequence[Sequence[Path]], left_out: Counter[str], progress: Callable[[str], None]
) -> SiteImages:
    """Return the first images that the model, open in float32, judges without refusing them.

    Parameters
    ----------
    candidates
        The files of each image.
    left_out
        Of images that were left out before.

    Raises
    ------
    ModelPackageError
        They are too few.
    """
    left_out, chosen = Counter(left_out), list[tuple[Path, ...]]()
    for number, paths in enumerate(candidates, start=1):
        if len(chosen) == MOST:
            left_out["more than are needed"] += len(candidates) - number + 1
            break
        progress(f"{model.manifest.key}: image {number} of {len(candidates)}")
        try:
            model.judge(model.load(paths).image, {})
        except UnsuitableImage as error:
            left_out[str(error)] += 1
        else:
            chosen.append(tuple(paths))
    if len(chosen) < FEWEST:
        reasons = "".join(f"; left out ({count}): {reason}" for reason, count in left_out.items())
        raise ModelPackageError(
            f"too few images to calibrate {model.manifest.key}",
            found=f"{len(chosen)} that it can judge{reasons}",
            expected=f"at least {FEWEST}, better 20 or more, as different as those that it will judge",
            mend="Name a folder with more of them (--calibrate)",
        )
    digest = hashlib.sha256()
    for sha256 in sorted(file_sha256(path) for paths in chosen for path in paths):
        digest.update(sha256.encode("ascii"))
    return SiteImages(tuple(chosen), digest.hexdigest(), left_out)
