"""Scanners that never give up: what was not acknowledged is sent again, the same to the byte, as real ones do."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.chaos.images import Image, Images
from tests.chaos.ledger import Ledger
from tests.support.raw_peer import RELEASE_RP, RawPeer, p_data, store_command

_FRAGMENT_BYTES = 16384 - 6
_RELEASE_RQ = bytes.fromhex("050000000004") + bytes(4)
_PAUSE_S = 0.3
"""Before a scanner tries again."""
_SUCCESS = "Received Store Response (Success)"


class Way(Protocol):
    """How images are handed over; ``send`` returns those of which it is certain that they were taken."""

    name: str

    def send(self, images: list[Image]) -> list[Image]: ...


class Scanner:
    """Sends image after image in a thread of its own until it is told to end, then what is left over.

    Parameters
    ----------
    kinds
        Asked before each batch which kinds of image may be sent now; none makes the scanner wait.
    rate
        Images in a second, at most.
    batch
        Images of one association, at most.
    """

    def __init__(
        self, way: Way, images: Images, ledger: Ledger, kinds: Callable[[], str], *, seed: str, rate: float, batch: int
    ) -> None:
        self._way, self._images, self._ledger, self._kinds = way, images, ledger, kinds
        self._rate, self._batch = rate, batch
        self._random = random.Random(seed)
        self._left: list[Image] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"scanner-{way.name}", daemon=True)
        self.offered = self.repeated = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Make no new images."""
        self._end.set()

    def join(self, timeout_s: float) -> int:
        """Wait until all is taken; return how many images are not."""
        self._thread.join(timeout_s)
        return len(self._left)

    def _run(self) -> None:
        while self._left or not self._end.is_set():
            if not self._left:
                self._left = self._next_batch()
                self.offered += len(self._left)
            else:
                self.repeated += len(self._left)
            taken = self._way.send(self._left) if self._left else []
            for image in taken:
                self._ledger.promised(image, self._way.name)
            done = {image.sop_instance_uid for image in taken}
            self._left = [image for image in self._left if image.sop_instance_uid not in done]
            self._end.wait(_PAUSE_S if self._left or not taken else len(taken) / self._rate)
            if self._left and self._end.is_set():
                threading.Event().wait(_PAUSE_S)

    def _next_batch(self) -> list[Image]:
        kinds = self._kinds()
        if not kinds or self._end.is_set():
            return []
        kind = self._random.choice(kinds.split())
        return [self._images.make(kind) for _ in range(self._random.randint(1, self._batch))]


class RawWay:
    """C-STORE by hand, so that it is known to the byte what was answered."""

    name = "raw"

    def __init__(self, port: int, seed: str) -> None:
        self._port = port
        self._random = random.Random(seed)

    def send(self, images: list[Image]) -> list[Image]:
        """Send all over one association until something fails; in one of ten the release is left out."""
        taken: list[Image] = []
        try:
            with RawPeer(self._port) as peer:
                peer.associate(sop_class=images[0].sop_class_uid)
                for image in images:
                    if _stored(peer, image):
                        taken.append(image)  # noqa: PERF401 - what was taken before it failed counts
                if self._random.random() > 0.1:
                    peer.send(_RELEASE_RQ)
                    assert peer.read()[0] == RELEASE_RP
        except (OSError, AssertionError, ValueError):
            pass  # the network, or the appliance, was gone: that is what this is about
        return taken


def _stored(peer: RawPeer, image: Image) -> bool:
    pdus = [p_data(store_command(image.sop_class_uid, image.sop_instance_uid), command=True, last=True)]
    for start in range(0, len(image.data_set), _FRAGMENT_BYTES):
        piece = image.data_set[start : start + _FRAGMENT_BYTES]
        pdus.append(p_data(piece, command=False, last=start + len(piece) == len(image.data_set)))
    peer.send(*pdus)
    return peer.read_status() == 0


class StorescuWay:
    """dcmtk's ``storescu``."""

    name = "storescu"

    def __init__(self, port: int, folder: Path) -> None:
        self._port, self._folder = port, folder
        folder.mkdir()

    def send(self, images: list[Image]) -> list[Image]:
        """Send all over one association; what it says about each is believed."""
        by_path = {}
        for index, image in enumerate(images):
            path = self._folder / f"{index}.dcm"
            path.write_bytes(image.part10())
            by_path[str(path)] = image
        command = ["storescu", "-v", "-to", "10", "-ta", "10", "-td", "15", "-aet", "DCMTK", "-aec", "APPLIANCE"]
        done = subprocess.run(
            [*command, "127.0.0.1", str(self._port), *by_path],
            env=os.environ | {"TCP_NODELAY": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        taken, sending = [], None
        for line in (done.stdout + done.stderr).splitlines():
            _, found, path_sent = line.partition("Sending file: ")
            if found:
                sending = by_path[path_sent.strip()]
            elif _SUCCESS in line and sending is not None:
                taken.append(sending)
                sending = None
        return taken


class DropFolderWay:
    """Files in the drop folder: what lies there whole is the appliance's from then on."""

    name = "dropfolder"

    def __init__(self, folder: Path, workshop: Path) -> None:
        self._folder, self._workshop = folder, workshop
        workshop.mkdir()

    def send(self, images: list[Image]) -> list[Image]:
        """Put each image in, whole."""
        if not self._folder.is_dir():
            return []
        for image in images:
            path = self._workshop / f"{image.sop_instance_uid}.dcm"
            path.write_bytes(image.part10())
            path.rename(self._folder / path.name)
        return images
