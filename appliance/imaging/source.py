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

    def room(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array to put the physical values in, for the caller to fill and keep."""
        ...


class PlainFiles:
    """Reads each file when it is asked for, and decodes here."""

    def read(self, path: Path) -> ImageFile:
        """See ``ImageSource``."""
        return read_image_file(path)

    def stored_values(self, file: ImageFile) -> NDArray[Any]:
        """See ``ImageSource``."""
        return stored_values(file.dataset, file.raw, file.native)

    def room(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """See ``ImageSource``."""
        return np.empty(shape, dtype=np.float32)


class DecodedFiles:
    """Keeps what it has read, and lets other processes decode what is compressed, several images at once.

    Decoding begins with ``read``, so that who reads all files before the first pixels waits least. Not for several
    threads at once.

    Parameters
    ----------
    reserve_bytes
        Address space for the physical values of what is kept. Memory is taken from it image by image, as the first
        touch of it costs more than all that follows: 0.3 s for a volume of 300 MB, and more on virtual machines.
    """

    def __init__(self, decoders: Decoders, reserve_bytes: int = 0) -> None:
        self._decoders = decoders
        try:
            self._reserve = np.empty(reserve_bytes // 4, dtype=np.float32)
        except MemoryError:  # address space is limited here: the memory is taken when it is needed
            self._reserve = np.empty(0, dtype=np.float32)
        self._touched = 0
        self._in_use = False
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
        self._reserve[self._touched : self._touched + _samples(file)] = 0
        self._touched += _samples(file)
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
            # That may have been long ago, when the image came, and others may have been lost with it: each is decoded
            # anew here, as an attempt at the job for each of them would be too many.
            pixels = self._decoders.submit(path)
            self._pixels[id(file)] = path, pixels
            return pixels.result()

    def room(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """See ``ImageSource``."""
        samples = int(np.prod(shape))
        if self._in_use or self._reserve.size < samples:
            return np.empty(shape, dtype=np.float32)
        self._in_use = True
        return self._reserve[:samples].reshape(shape)

    def take_room_back(self) -> None:
        """Nobody uses what ``room`` has returned any more: it may return the same memory again."""
        self._in_use = False


def _samples(file: ImageFile) -> int:
    return frame_count(file.dataset) * int(file.dataset.Rows) * int(file.dataset.Columns)


def expected_bytes(file: ImageFile) -> int:
    """Memory that a file takes once it is decoded and its physical values are in place."""
    samples = _samples(file)
    decoded = 0 if file.native is not None else samples * int(file.dataset.BitsAllocated) // 8
    return len(file.raw) + decoded + samples * np.dtype(np.float32).itemsize
