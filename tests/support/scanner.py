"""dcmtk as the scanner that sends images."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


def storescu(port: int, paths: Sequence[Path], *, calling: str = "SCANNER", called: str = "APPLIANCE") -> bool:
    """Send files over one association; whether every one was acknowledged.

    Without TCP_NODELAY, Nagle's algorithm in dcmtk costs 40 ms for each image.
    """
    command = ["storescu", "-R", "-aet", calling, "-aec", called, "127.0.0.1", str(port), *map(str, paths)]
    done = subprocess.run(command, env=os.environ | {"TCP_NODELAY": "1"}, capture_output=True, check=False, timeout=120)
    return done.returncode == 0
