"""The library's server, bounded and silent on standard error."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from socketserver import BaseServer
from typing import Any, Final

from pynetdicom.transport import ThreadedAssociationServer

_log = logging.getLogger(__name__)

_COLLECT_S: Final = 30.0


class AssociationServer(ThreadedAssociationServer):
    """The library's server with a limit on connections, and with errors in the log instead of on standard error."""

    request_queue_size = 128
    admits: Callable[[], bool] | None = None
    collect_at = 0.0

    def service_actions(self) -> None:
        """Collect ended associations, which hold on to each other, now and then (``socketserver``, at each poll).

        The library does so every 60 polls, which would be too often at this interval: it takes tens of milliseconds.
        """
        if time.monotonic() >= self.collect_at:
            gc.collect()
            self.collect_at = time.monotonic() + _COLLECT_S

    def shutdown(self) -> None:
        """Stop serving and close the port (the library's own also wants to unlist a server that it started)."""
        BaseServer.shutdown(self)
        self.server_close()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Say whether a new connection is looked at at all (``socketserver``)."""
        return self.admits is None or self.admits()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection failed before its association began (``socketserver``)."""
        _log.warning("a connection from %s failed at its start", client_address[0], exc_info=True)
