"""The file that a data set is written to while it arrives."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from appliance.errors import ApplianceError, RejectedInput, SpoolFull
from appliance.spool.spool import Spool


class IncomingFile:
    """Takes the data set of one C-STORE request, piece by piece, straight into ``spool.incoming``.

    pynetdicom uses it as its own temporary file: ``name``, ``write``, ``file.flush`` and ``close`` are what the
    library calls. Nothing is buffered, so that the last piece is in the file before the request is handed on.

    ``write`` never raises, as that would end the library's reader thread and leave the peer without an answer: a
    failure is kept in ``failure``, what follows is discarded, and the request is answered with it at its end.

    Parameters
    ----------
    head
        Preamble and file meta information to begin with.
    max_bytes
        Largest data set; a larger one makes ``overrun`` true and is discarded.
    """

    def __init__(self, spool: Spool, head: bytes, max_bytes: int) -> None:
        self.failure: ApplianceError | OSError | None = None
        self.overrun = False
        self.path: Path | None = None
        self._descriptor = -1
        self._max_bytes = max_bytes
        self._received_bytes = 0
        self._digest = hashlib.sha256()
        try:
            spool.require_room()
            self.path = spool.new_incoming()
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            _write_all(self._descriptor, head)
        except (SpoolFull, OSError) as error:
            self.fail(error)

    @property
    def name(self) -> str:
        """Path of the file, as the library has it."""
        return str(self.path)

    @property
    def file(self) -> IncomingFile:
        """The library flushes ``file.file``; there is nothing to flush."""
        return self

    @property
    def data_set_sha256(self) -> str:
        """SHA-256 of what has been received, without the head, in hexadecimal digits."""
        return self._digest.hexdigest()

    def flush(self) -> None:
        """Nothing is buffered."""

    def write(self, data: bytes | memoryview) -> None:
        """Take the next piece of the data set."""
        self._received_bytes += len(data)
        if self._received_bytes > self._max_bytes:
            self.overrun = True
            self.fail(
                RejectedInput(
                    "too-big",
                    "the data set is larger than what is taken",
                    found=f"more than {self._max_bytes >> 20} MiB",
                    expected="less (dicom.max_instance_bytes)",
                    mend="Raise the limit if the image is genuine",
                )
            )
        if self.failure is not None:
            return
        self._digest.update(data)
        try:
            _write_all(self._descriptor, data)
        except OSError as error:
            self.fail(error)

    def fail(self, error: ApplianceError | OSError) -> None:
        """Discard what has come and what will; the first failure is the one that is kept."""
        if self.failure is None:
            self.failure = error
        self.discard()

    def close(self) -> None:
        """End writing; the file stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """End writing and remove the file, if it has not been moved away already."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
