"""dcmtk as the scanner that sends images."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset, dcmread
from pynetdicom import AE


def storescu(
    port: int,
    paths: Sequence[Path],
    *,
    calling: str = "SCANNER",
    called: str = "APPLIANCE",
    options: Sequence[str] = (),
) -> bool:
    """Send files over one association; whether every one was acknowledged.

    Compressed files want one of ``options``, such as ``--propose-jls-lossless``. Without TCP_NODELAY, Nagle's
    algorithm in dcmtk costs 40 ms for each image.
    """
    command = ["storescu", "-R", "-aet", calling, "-aec", called, *options, "127.0.0.1", str(port), *map(str, paths)]
    done = subprocess.run(command, env=os.environ | {"TCP_NODELAY": "1"}, capture_output=True, check=False, timeout=120)
    return done.returncode == 0


def storescu_paced(port: int, paths: Sequence[Path], per_second: float) -> None:
    """Send files over one association as a scanner does that reconstructs ``per_second`` images in a second.

    Raises
    ------
    ConnectionError
        The association was refused, or an image was not acknowledged.
    """
    entity = AE("SCANNER")
    for context in {(data.SOPClassUID, data.file_meta.TransferSyntaxUID) for data in map(_head, paths)}:
        entity.add_requested_context(*context)
    association = entity.associate("127.0.0.1", port, ae_title="APPLIANCE")
    if not association.is_established:
        raise ConnectionError("the association was refused")
    begun = time.monotonic()
    for number, path in enumerate(paths):
        time.sleep(max(0.0, begun + number / per_second - time.monotonic()))
        if association.send_c_store(path).get("Status") != 0:
            raise ConnectionError(f"image {number} was not acknowledged")
    association.release()


def _head(path: Path) -> Dataset:
    return dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
