"""The runtimes tell nobody what they run: importing, loading and running send nothing and leave nothing at home.

ONNX Runtime sends from native code, which an audit hook does not see; but it first writes its identifier and the
events that wait to be sent below the home folder, and without these it has no uploader.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from appliance.backends.table import BACKENDS, backend_class
from appliance.errors import BackendUnavailable
from tests.support.networks import write_two_channels

PROGRAM = """
import sys
from pathlib import Path

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen"):
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(watch)
from appliance.backends.table import backend_class
from tests.support.networks import network_spec
import numpy as np

backend = backend_class(sys.argv[1])(threads=1, cache=Path(sys.argv[2]).parent / "cache")
with backend.open(Path(sys.argv[2]), network_spec()) as session:
    session.run(np.ones((1, 1, 8, 6), np.float32), time_limit_s=60)
print("done")
"""


@pytest.mark.parametrize("name", BACKENDS)
def test_nothing_is_sent_and_nothing_is_left_at_home(name: str, tmp_path: Path) -> None:
    """In an environment that does not look like a test's: both runtimes are silent by themselves where CI is set."""
    try:
        reason = backend_class(name).unavailable("float32")  # type: ignore[arg-type]
    except BackendUnavailable as error:
        reason = str(error)
    if reason is not None:
        pytest.skip(reason)
    home = tmp_path / "home"
    home.mkdir()
    model = write_two_channels(tmp_path / "model.onnx")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, str(model)],
        cwd=Path(__file__).parents[3], env={"HOME": str(home), "PATH": ""}, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.stdout.endswith("done\n"), done.stderr
    assert list(home.iterdir()) == []
