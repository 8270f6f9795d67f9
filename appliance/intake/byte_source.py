"""Forward-only readers of a data set's bytes, in bounded memory whatever the file claims about itself.

``pread`` instead of a memory map: a file of the drop folder may be cut short by its writer while it is being read,
which would kill the process with SIGBUS if it were mapped.
"""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from typing import Final

from appliance.errors import RejectedInput

_WINDOW_BYTES = 16 * 1024
"""What comes before the pixels of most images is less."""
MAX_INFLATED_BYTES: Final = 1024 * 1024 * 1024
"""A data set is inflated in memory before its pixels can be decoded, and grows up to a thousandfold by that."""


def truncated(found: str) -> RejectedInput:
    """The error of a data set that ends before it is complete."""
    return RejectedInput(
        "truncated",
        "the data set ends before it is complete",
        found=found,
        expected="every element to lie inside the file",
        mend="Send or copy it again",
    )


class ByteSource(ABC):
    """Bytes that are read once, from front to back."""

    def __init__(self) -> None:
        self._buffer = b""
        self._index = 0

    @abstractmethod
    def _more(self, wanted: int) -> bytes:
        """Return the next bytes, about ``wanted`` of them; empty at the end."""

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes (few: they are held in memory).

        Raises
        ------
        RejectedInput
            ``truncated``: there are not that many.
        """
        start = self._index
        end = start + count
        if end > len(self._buffer):
            self._fill(count)
            start, end = 0, count
        self._index = end
        return self._buffer[start:end]

    def at_end(self) -> bool:
        """Say whether nothing is left."""
        if self._index < len(self._buffer):
            return False
        self._buffer, self._index = self._more(_WINDOW_BYTES), 0
        return not self._buffer

    def skip(self, count: int) -> None:
        """Pass over the next ``count`` bytes.

        Raises
        ------
        RejectedInput
            ``truncated``: there are not that many.
        """
        left = len(self._buffer) - self._index
        if count <= left:
            self._index += count
        else:
            self._buffer, self._index = b"", 0
            self._skip_unread(count - left)

    @abstractmethod
    def _skip_unread(self, count: int) -> None:
        """Pass over bytes that ``_more`` has not returned yet."""

    def _fill(self, count: int) -> None:
        pieces = [self._buffer[self._index :]]
        have = len(pieces[0])
        while have < count:
            piece = self._more(max(count - have, _WINDOW_BYTES))
            if not piece:
                raise truncated(f"{have} bytes left where {count} are needed")
            pieces.append(piece)
            have += len(piece)
        self._buffer, self._index = b"".join(pieces), 0


class FileBytes(ByteSource):
    """The bytes of an open file from ``start`` on; the descriptor stays the caller's."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._next = start
        self._size = size

    @property
    def position(self) -> int:
        """Offset in the file of the next byte that is taken."""
        return self._next - (len(self._buffer) - self._index)

    def window(self) -> bytes:
        """The next bytes as they come, empty at the end."""
        return self._more(_WINDOW_BYTES)

    def _more(self, wanted: int) -> bytes:
        piece = os.pread(self._descriptor, min(wanted, self._size - self._next), self._next)
        self._next += len(piece)
        return piece

    def _skip_unread(self, count: int) -> None:
        if self._next + count > self._size:
            raise truncated(f"a length that passes the end of the file by {self._next + count - self._size} bytes")
        self._next += count


class InflatedBytes(ByteSource):
    """The inflated bytes of a deflated data set (PS3.5 section A.5), never more than a window of them in memory.

    Raises
    ------
    RejectedInput
        While being read: ``malformed`` when the stream is damaged, ``too-big`` when more than ``max_bytes``, or
        ``MAX_INFLATED_BYTES``, come out of it, ``truncated`` when it stops in the middle.
    """

    def __init__(self, descriptor: int, start: int, size: int, max_bytes: int) -> None:
        super().__init__()
        self._compressed = FileBytes(descriptor, start, size)
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._pending = b""
        self._left_bytes = self._max_bytes = min(max_bytes, MAX_INFLATED_BYTES)

    def _more(self, wanted: int) -> bytes:
        while not self._inflater.eof:
            if not self._pending:
                self._pending = self._compressed.window()
                if not self._pending:
                    raise truncated("a deflated stream without its end")
            try:
                piece = self._inflater.decompress(self._pending, _WINDOW_BYTES)
            except zlib.error as error:
                raise RejectedInput(
                    "malformed", "the deflated data set cannot be inflated", found=str(error), mend="Send it again"
                ) from error
            self._pending = self._inflater.unconsumed_tail
            if piece:
                self._left_bytes -= len(piece)
                if self._left_bytes < 0:
                    raise RejectedInput(
                        "too-big",
                        "the inflated data set is larger than what is taken",
                        found=f"more than {self._max_bytes >> 20} MiB",
                        expected=f"at most {MAX_INFLATED_BYTES >> 20} MiB, and dicom.max_instance_bytes",
                        mend="Let the sender convert it to explicit VR little endian if the image is genuine",
                    )
                return piece
        return b""

    def _skip_unread(self, count: int) -> None:
        while count > 0:
            piece = self._more(_WINDOW_BYTES)
            if not piece:
                raise truncated(f"{count} bytes too few")
            if len(piece) > count:
                self._buffer, self._index = piece, count
                return
            count -= len(piece)
