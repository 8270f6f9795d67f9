"""Where images are read from: straight from their files, or from memory, where they were decoded beforehand."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.errors import DecoderLost
from appliance.imaging.decoders import Decoders
from appliance.imaging.file import ImageFile, read_image_file
from appliance.imaging.pixels import frame_count, stored_values


class ImageSource(Protocol):
    """Gives the files of a series, and the pixels of each."""

    def read(self, path: Path) -> ImageFile:
        """Return a file; raises as ``read_image_file`` does."""
        ...

    def stored_values(self, file: ImageFile) -> NDArray[Any]:
        """Return the stored values ``[frame, row, column]`` of one of these files, not to be changed.

        Raises
        ------
        UnsuitableImage
            The reasons of ``pixels.stored_values``.
        DecoderLost
            What decodes compressed pixels was killed.
        """
        ...


class PlainFiles:
    """Reads each file when it is asked for, and decodes here."""

    def read(self, path: Path) -> ImageFile:
        """See ``ImageSource``."""
        return read_image_file(path)

    def stored_values(self, file: ImageFile) -> NDArray[Any]:
        """See ``ImageSource``."""
        return stored_values(file.dataset, file.raw, file.native)


class DecodedFiles:
    """Keeps what it has read, and lets other processes decode what is compressed, several images at once.

    Decoding begins with ``read``, so that who reads all files before the first pixels waits least. Not for several
    threads at once.
    """

    def __init__(self, decoders: Decoders) -> None:
        self._decoders = decoders
        self._files: dict[Path, ImageFile] = {}
        # By the id of the file, which lives as long.
        self._pixels: dict[int, tuple[Path, Future[NDArray[Any]]]] = {}

    def read(self, path: Path) -> ImageFile:
        """See ``ImageSource``."""
        file = self._files.get(path)
        if file is None:
            file = read_image_file(path)
            self.keep(path, file)
        return file

    def keep(self, path: Path, file: ImageFile) -> None:
        """Take a file that was read already, and begin to decode it."""
        self._files[path] = file
        if file.native is None:
            self._pixels[id(file)] = path, self._decoders.submit(path)

    def forget(self, path: Path) -> None:
        """Let a file go: the next ``read`` reads it again."""
        file = self._files.pop(path, None)
        if file is not None:
            self._pixels.pop(id(file), None)

    def are_decoded(self) -> bool:
        """Whether nothing is being decoded at the moment."""
        return all(pixels.done() for _, pixels in self._pixels.values())

    def stored_values(self, file: ImageFile) -> NDArray[Any]:
        """See ``ImageSource``."""
        if id(file) not in self._pixels:
            return stored_values(file.dataset, file.raw, file.native)
        path, pixels = self._pixels[id(file)]
        try:
            return pixels.result()
        except (DecoderLost, OSError):
            self.forget(path)  # the next attempt may have more luck
            raise


def expected_bytes(file: ImageFile) -> int:
    """Memory that a file takes once it is decoded and its physical values are in place."""
    samples = frame_count(file.dataset) * int(file.dataset.Rows) * int(file.dataset.Columns)
    decoded = 0 if file.native is not None else samples * int(file.dataset.BitsAllocated) // 8
    return len(file.raw) + decoded + samples * np.dtype(np.float32).itemsize
