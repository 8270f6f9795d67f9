"""What the senders were promised, written down the moment they were: the other side of the appliance's books."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos.images import Image


@dataclass(frozen=True, slots=True)
class Promise:
    """One image that was answered with 0x0000, or that lay whole in the drop folder; ``sha256`` is of its data set."""

    sop_instance_uid: str
    sha256: str
    kind: str
    way: str


class Ledger:
    """A file with one promise a line; usable from any thread."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("a", encoding="ascii")
        self._lock = threading.Lock()
        self.promises = 0

    def promised(self, image: Image, way: str) -> None:
        """Note a promise."""
        line = json.dumps(asdict(Promise(image.sop_instance_uid, image.sha256, image.kind, way)))
        with self._lock:
            self._stream.write(line + "\n")
            self.promises += 1

    def close(self) -> None:
        """Write down all of it."""
        self._stream.close()


def read_ledger(path: Path) -> Iterator[Promise]:
    """The promises of a ledger."""
    for line in path.read_text(encoding="ascii").splitlines():
        yield Promise(**json.loads(line))
