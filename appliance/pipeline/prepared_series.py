"""The images of one series in memory, and what the models need of them before their networks run."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from appliance.errors import UnsuitableImage
from appliance.imaging.decoders import Decoders
from appliance.imaging.file import ImageFile, malformed_header
from appliance.imaging.loading import LoadedImage
from appliance.imaging.slices import slices_of
from appliance.imaging.source import DecodedFiles
from appliance.manifest.manifest import InputSpec
from appliance.pipeline.model import FirstTensor
from appliance.pipeline.model_thread import ModelThread

Images = tuple[tuple[Path, str], ...]
"""The files of a series, each with the SHA-256 of its data set, in the order in which they came."""


class PreparedSeries:
    """Reads and decodes each file once, and prepares it for each model; whoever uses it holds ``lock``.

    What was made counts for exactly the images, by their SHA-256, that it was made of.

    Parameters
    ----------
    reserve_bytes
        See ``DecodedFiles``.
    """

    def __init__(self, decoders: Decoders, reserve_bytes: int = 0) -> None:
        self.lock = threading.Lock()
        self.bytes = 0
        self._files = DecodedFiles(decoders, reserve_bytes)
        self._sha256: dict[Path, str] = {}
        self._images: Images = ()
        self._loaded: list[tuple[InputSpec, LoadedImage]] = []
        self._taken = False
        self._first: dict[ModelThread, tuple[LoadedImage, FirstTensor]] = {}

    def keep(self, path: Path, sha256: str, file: ImageFile, size: int) -> None:
        """Take a file that has just come, which will take ``size`` bytes in memory, and begin to decode it."""
        self._sha256[path] = sha256
        self._files.keep(path, file)
        self.bytes += size
        # pydicom converts values on first use: now, not when those of all images are wanted at once.
        with suppress(UnsuitableImage), malformed_header():
            for _ in slices_of(file):
                pass

    def are_decoded(self) -> bool:
        """Whether all files that are here are decoded."""
        return self._files.are_decoded()

    def covers(self, images: Images) -> bool:
        """Whether all of these are here, read and decoded or being decoded."""
        return all(self._sha256.get(path) == sha256 for path, sha256 in images)

    def prepare(self, model: ModelThread, images: Images) -> None:
        """Make what ``take`` will return, beforehand; raises as ``take`` does."""
        loaded = self._load(model, images)
        if model not in self._first:
            first = model.prepare(loaded.image)
            self._first[model] = loaded, first
            self.bytes += first.tensor.nbytes

    def take(self, model: ModelThread, images: Images) -> tuple[LoadedImage, FirstTensor]:
        """Return the image that these files make, and what the model's first network gets; the caller's own.

        Raises
        ------
        UnsuitableImage, DecoderLost, OSError
            See ``load_image`` and ``Preparation``.
        """
        loaded = self._load(model, images)
        self._taken = True
        made_of, first = self._first.pop(model, (None, None))
        if first is None or made_of is not loaded:
            first = model.prepare(loaded.image)
        return loaded, first

    def _load(self, model: ModelThread, images: Images) -> LoadedImage:
        if images != self._images:
            for path, sha256 in images:
                if self._sha256.get(path, sha256) != sha256:
                    self._files.forget(path)
                self._sha256[path] = sha256
            self._images = images
            self._loaded.clear()
            self._first.clear()
            if not self._taken:
                self._files.take_room_back()
        spec = model.manifest.input
        for known, loaded in self._loaded:
            if known == spec:
                return loaded
        loaded = model.load([path for path, _ in images], self._files)
        self._loaded.append((spec, loaded))
        return loaded


def images_of(root: Path, images: Sequence[tuple[str, str]]) -> Images:
    """The images of a job, or of a series, whose paths are relative to ``root``."""
    return tuple((root / path, sha256) for path, sha256 in images)
