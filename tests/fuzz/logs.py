"""What the program logs while it is fuzzed, and whether any of it names a patient."""

from __future__ import annotations

import logging
import threading
import traceback
from typing import Final

from appliance.observability.logs import set_up_logs

PLANTED_TEXT: Final = "PLANTED"
"""In the names, numbers and file names of every seed."""
PLANTED_ROOT: Final = "1.2.826.0.1.3680043.9.9999.77777"
"""Every UID of an instance, series or study in a seed begins so."""
_MOST_KEPT: Final = 10_000


class WatchedLogs(logging.Handler):
    """Reads every record from INFO on, tracebacks included, as an operator would."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
        self._lines: list[str] = []

    def install(self) -> None:
        """From now on, what the appliance would log as it is shipped comes here, and nowhere else."""
        set_up_logs("fuzz", "INFO")
        logging.getLogger().handlers[:] = [self]
        threading.excepthook = lambda failure: self._lines.append(
            f"Traceback of a thread that died: {''.join(traceback.format_exception(failure.exc_value))}"
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self._lines.append(self.format(record))
        del self._lines[:-_MOST_KEPT]

    def check(self) -> None:
        """Raise ``AssertionError`` when an identifying value was logged, or an error of ours; then forget all."""
        lines, self._lines = self._lines, []
        for line in lines:
            assert PLANTED_TEXT not in line and PLANTED_ROOT not in line, f"an identifying value in the log: {line}"
            assert "Traceback" not in line, f"an error that nobody thought of: {line}"
