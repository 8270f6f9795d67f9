"""A thread whose failure ends the role instead of passing unnoticed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class GuardedThread(threading.Thread):
    """Runs ``run_forever`` until it returns; when it raises, the role has to end.

    A receiver whose drop folder or assembler has died looks healthy from outside and loses work in silence: it is
    better ended, and started anew by its supervisor, as nothing acknowledged is lost by that.
    """

    def __init__(self, name: str, run_forever: Callable[[], None], on_fatal: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._run_forever = run_forever
        self._on_fatal = on_fatal

    def run(self) -> None:
        """Run to the end; called by ``start``."""
        try:
            self._run_forever()
        except Exception:  # noqa: BLE001 - top of a thread: whatever it is, the role must not go on without it
            _log.exception("%s failed, the role ends", self.name)
            self._on_fatal()

    def end(self, timeout_s: float) -> None:
        """Wait until it has returned, if it was started at all; who calls has told it to stop."""
        if self.ident is not None:
            self.join(timeout_s)
