"""The first result costs half a second more than the next ones; this pays for it before a patient waits."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from appliance.results.objects import write_results
from appliance.results.sample import sample_result


def warm_up() -> None:
    """Write a tiny result of nobody and forget it: highdicom reads its tables of the Standard, fonts are loaded.

    Raises
    ------
    ResultError
        Results cannot be written at all, on this machine or in this version.
    """
    with TemporaryDirectory(prefix="appliance-warm-") as folder:
        write_results(*sample_result(8), Path(folder))
