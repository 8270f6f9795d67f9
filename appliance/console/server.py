"""``/metrics``, ``/healthz``, ``/readyz`` and ``/status`` over HTTP."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.console.collector import JournalCollector
from appliance.console.readiness import is_running, unready_reasons
from appliance.console.status import status_of
from appliance.errors import ConfigurationError
from appliance.journal.journal import Journal
from appliance.observability.guarded_thread import GuardedThread
from appliance.observability.role_files import RoleFiles
from appliance.spool.spool import Spool

_log = logging.getLogger(__name__)

_CLIENT_TIMEOUT_S = 10.0
_STOP_POLL_S = 0.1

Page = tuple[HTTPStatus, str, bytes]
"""Status, content type, body."""


class Console:
    """Serves from ``start`` to ``stop``."""

    def __init__(self, settings: Settings, layout: StateLayout, *, on_fatal: Callable[[], None]) -> None:
        self._settings = settings
        self._layout = layout
        self._on_fatal = on_fatal
        self._journal = Journal(layout.journal)
        self._spool = Spool(layout.spool, min_free_bytes=settings.storage.min_free_bytes)
        self._registry = CollectorRegistry()
        self._registry.register(RoleFiles(layout.metrics, partial(is_running, layout)))
        self._registry.register(JournalCollector(self._journal, self._spool, settings))
        self._pages: dict[str, Callable[[str], Page]] = {
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/status": self._status,
        }
        self._server: ThreadingHTTPServer | None = None
        self._thread: GuardedThread | None = None

    def start(self) -> None:
        """Listen.

        Raises
        ------
        ConfigurationError
            The address cannot be listened on.
        """
        host, port = self._settings.console.host, self._settings.console.port
        pages = self._pages

        class Handler(_Handler):
            page = staticmethod(lambda path, accept: pages[path](accept) if path in pages else None)

        try:
            self._server = _Server((host, port), Handler)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host} port {port}",
                found=error.strerror,
                mend="Correct console.host or console.port",
            ) from error
        serve = partial(self._server.serve_forever, _STOP_POLL_S)
        self._thread = GuardedThread("console", serve, self._on_fatal)
        self._thread.start()
        _log.info("listening on http://%s:%d", host, port)

    def stop(self) -> None:
        """Serve no more."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(5)
        self._journal.close()

    def _metrics(self, accept: str) -> Page:
        encoder, content_type = choose_encoder(accept)
        return HTTPStatus.OK, content_type, encoder(self._registry)

    def _healthz(self, accept: str) -> Page:
        """Alive: this process answers and the journal can be read."""
        try:
            self._journal.overview.tally()
        except Exception as error:  # noqa: BLE001 - whatever keeps the journal from being read is what is asked for
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"healthy": False, "reasons": [f"journal: {error}"]})
        return _json(HTTPStatus.OK, {"healthy": True})

    def _readyz(self, accept: str) -> Page:
        """Ready: images are accepted and the models are warm."""
        reasons = unready_reasons(self._settings, self._layout, self._spool)
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        return _json(status, {"ready": not reasons, "reasons": reasons})

    def _status(self, accept: str) -> Page:
        return _json(HTTPStatus.OK, status_of(self._journal, self._spool, self._settings, self._layout))


class _Server(ThreadingHTTPServer):
    """A thread for each request; none of them keeps the role from ending."""

    def server_bind(self) -> None:
        """Bind without asking the network for the own name, as ``HTTPServer`` does: without DNS that takes long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away before it had its answer is no news; ``_Handler`` logs what is."""
        _log.debug("a client went away")


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; a client that is slow to ask is dropped."""

    timeout = _CLIENT_TIMEOUT_S
    server_version = "appliance"
    sys_version = ""
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"
    page: Callable[[str, str], Page | None]

    def do_GET(self) -> None:
        """A page, with its body."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """A page, without its body."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        try:
            found = self.page(path, self.headers.get("Accept", ""))
        except Exception:  # noqa: BLE001 - one request must not end the console; the log has the reason
            _log.exception("cannot make the page %s", path if path in _PATHS else "asked for")
            found = _json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "internal error, see the console's log"})
        status, content_type, body = found or _json(HTTPStatus.NOT_FOUND, {"error": f"pages: {', '.join(_PATHS)}"})
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes every few seconds are no news."""
        _log.debug("request answered with %s", args[1] if len(args) > 1 else "?")


_PATHS = ("/metrics", "/healthz", "/readyz", "/status")


def _json(status: HTTPStatus, content: dict[str, Any]) -> Page:
    return status, "application/json; charset=utf-8", json.dumps(content, indent=2).encode() + b"\n"
