"""The confirmer: brings the journal to the disk for many instances at once, a moment after they were answered."""

from __future__ import annotations

import threading
from collections.abc import Callable

from appliance.intake.store import InstanceStore
from appliance.observability.guarded_thread import GuardedThread
from appliance.spool.durable import SyncFailed

_INTERVAL_S = 0.2


class Confirmer:
    """One thread that calls ``InstanceStore.confirm``, and keeps names ready for the files of the next instances.

    Parameters
    ----------
    on_fatal
        Called when the disk has failed and the role has to end.
    """

    def __init__(self, store: InstanceStore, *, on_fatal: Callable[[], None]) -> None:
        self._store = store
        self._stop = threading.Event()
        self._thread = GuardedThread("confirmer", self._run, on_fatal)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Confirm what is left, and end."""
        self._stop.set()
        self._thread.end(timeout_s)

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self._store.confirm()
            self._prepare()
        self._store.confirm()
        self._store.spool.incoming.close()

    def _prepare(self) -> None:
        try:
            self._store.spool.incoming.prepare()
        except SyncFailed:
            raise
        except OSError:
            pass  # a full disk: reception finds the same, and has its own words for it
