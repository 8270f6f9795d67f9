"""Logs: one line per event on standard error, with the role and no identifying data.

Times are left to the journal of systemd when it reads them; on a terminal each line starts with one. Third-party
loggers are held at WARNING: pynetdicom's INFO lines print whole data sets' identifiers.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings


def set_up_logs(role: str, level: str) -> None:
    """Send this process's logs to standard error, from ``level`` upwards."""
    # systemd sets JOURNAL_STREAM when standard error goes to its journal, which stamps each line itself.
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{stamp}%(levelname)s {role} %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("appliance").setLevel(level)
    # Their errors repeat what our own handlers report, with the peer's data in them, or a traceback for each image that
    # cannot be decoded.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    # Warnings are for developers: pydicom's and highdicom's quote values of the images.
    warnings.simplefilter("ignore")
