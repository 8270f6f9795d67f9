"""Results into a folder: a share that a viewer or another system picks them up from."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.config.settings import FolderDestination
from appliance.delivery.base import Destination
from appliance.delivery.outgoing import Outgoing
from appliance.errors import DeliveryRefused, DeliveryRetry, DestinationUnreachable
from appliance.spool.durable import fsync_folder

_MENDS = {
    errno.ENOENT: "Make the folder, or mount it: it is not made here, as a missing mount would fill the local disk",
    errno.ENOTDIR: "Name a folder in the settings (path)",
    errno.EACCES: "Let the user of the appliance write in it",
    errno.EPERM: "Let the user of the appliance write in it",
    errno.EROFS: "Mount it writable",
    errno.ENOSPC: "Make room on its disk",
    errno.EDQUOT: "Make room on its disk",
}


class Folder(Destination):
    """Copies each object, byte by byte, to ``<kind>-<hash of its SOP Instance UID>.dcm``.

    The name shows no UID, and is always the same for the same object, so that a repeat replaces it with itself. A
    reader that looks for ``*.dcm`` never sees half a file.
    """

    def __init__(self, settings: FolderDestination) -> None:
        self._folder = settings.path
        self._is_cut = threading.Event()

    def _send(self, outgoing: Outgoing) -> None:
        name = f"{outgoing.kind}-{hashlib.sha256(outgoing.sop_instance_uid.encode()).hexdigest()[:20]}.dcm"
        with self._reported():
            # The one name for all attempts: what an attempt that was killed left behind is overwritten.
            temporary = self._folder / f".{name}.part"
            try:
                with temporary.open("wb") as target:
                    for piece in outgoing.read():
                        if self._is_cut.is_set():
                            raise InterruptedError(errno.EINTR, "the appliance stops")
                        target.write(piece)
                    target.flush()
                    os.fsync(target.fileno())
                temporary.rename(self._folder / name)
            except (OSError, DeliveryRefused, DeliveryRetry):
                self._remove(temporary)
                raise
            fsync_folder(self._folder)

    def close(self) -> None:
        """Nothing stays open."""

    def cut(self) -> None:
        """End a copy at its next piece."""
        self._is_cut.set()

    @staticmethod
    def _remove(temporary: Path) -> None:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # the folder is in trouble: that is what is being reported

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DestinationUnreachable(
                f"the folder {self._folder} cannot be written",
                found=error.strerror or type(error).__name__,
                mend=_MENDS.get(error.errno or 0, "Look at the folder and its disk"),
            ) from error
