"""The pages, asked over the network as Prometheus, a browser and a broken client ask."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from appliance.config.layout import StateLayout
from appliance.config.settings import Console as ConsoleSettings
from appliance.config.settings import Settings
from appliance.console import server as server_module
from appliance.console.collector import JournalCollector
from appliance.console.server import Console
from appliance.errors import ConfigurationError
from tests.support.ports import free_port
from tests.support.waiting import wait_for
from tests.unit.console.conftest import ROLES, Bench
from tests.unit.journal.makers import NO, YES, received, register

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PAGES = ("/metrics", "/healthz", "/readyz", "/status")


def ask(
    bench: Bench, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", bench.port, timeout=10)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def ask_raw(bench: Bench, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", bench.port), timeout=10) as client:
        client.sendall(request)
        answer = b""
        while block := client.recv(65536):
            answer += block
        return answer


def test_metrics_for_prometheus(bench: Bench) -> None:
    register(bench.journal, received("1.1"), [YES])
    response, body = ask(bench, "/metrics")
    assert response.status == 200
    assert (response.getheader("Content-Type") or "").startswith("text/plain; version=")
    families = {family.name: family for family in parse_text(body.decode())}
    rows = {(s.labels["kind"], s.labels["state"]): s.value for s in families["appliance_rows"].samples}
    assert rows["job", "queued"] == rows["series", "receiving"] == 1
    assert rows["delivery", "failed"] == 0


def test_metrics_in_the_newer_format_for_who_wants_it(bench: Bench) -> None:
    response, body = ask(bench, "/metrics", headers={"Accept": OPENMETRICS})
    assert (response.getheader("Content-Type") or "").startswith("application/openmetrics-text")
    assert "appliance_build" in {family.name.removesuffix("_info") for family in parse_openmetrics(body.decode())}


def test_metrics_of_roles_are_on_the_page(bench: Bench) -> None:
    """What the other tests show of files holds for the page."""
    (bench.layout.metrics / "counter_sender.db").write_bytes(b"\xff" * 100)
    response, _ = ask(bench, "/metrics")
    assert response.status == 200


def test_gauges_of_roles_that_do_not_run_are_not_on_the_page(bench: Bench) -> None:
    code = (
        "import sys; from pathlib import Path; from appliance.observability.metrics import Metrics; "
        "Metrics.for_role('receiver', Path(sys.argv[1])).open_associations.set(3)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, bench.layout.metrics], check=True, timeout=60)
    with bench.running("receiver"):
        assert b"\nappliance_open_associations 3.0\n" in ask(bench, "/metrics")[1]
    assert b"\nappliance_open_associations 3.0\n" not in ask(bench, "/metrics")[1]


def test_healthy(bench: Bench) -> None:
    response, body = ask(bench, "/healthz")
    assert (response.status, json.loads(body)) == (200, {"healthy": True})


def test_a_journal_that_cannot_be_read_is_unhealthy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("disk I/O error")

    monkeypatch.setattr(bench.console._journal.overview, "tally", broken)
    response, body = ask(bench, "/healthz")
    assert response.status == 503
    assert json.loads(body) == {"healthy": False, "reasons": ["journal: disk I/O error"]}


def test_a_journal_that_is_damaged_on_the_disk_is_unhealthy(bench: Bench) -> None:
    """Really damaged, not as if: what SQLite says reaches who asks, and the console goes on."""
    assert ask(bench, "/healthz")[0].status == 200
    bench.journal.close()
    with bench.layout.journal.open("r+b") as file:
        file.write(b"\xff" * 4096)
    for leftover in bench.layout.journal.parent.glob("*-wal"):
        leftover.write_bytes(b"")
    response, body = ask(bench, "/healthz")
    assert response.status == 503
    assert json.loads(body) == {"healthy": False, "reasons": ["journal: file is not a database"]}
    assert ask(bench, "/readyz")[0].status == 503
    assert ask(bench, "/healthz")[0].status == 503


def test_ready_or_why_not(bench: Bench) -> None:
    response, body = ask(bench, "/readyz")
    assert response.status == 503
    assert json.loads(body)["reasons"] == [f"{role}: not running" for role in ROLES]
    with bench.running(*ROLES):
        response, body = ask(bench, "/readyz")
        assert (response.status, json.loads(body)) == (200, {"ready": True, "reasons": []})


def test_status_is_what_the_command_prints(bench: Bench) -> None:
    register(bench.journal, received("1.1"), [YES, NO])
    response, body = ask(bench, "/status")
    assert (response.status, response.getheader("Content-Type")) == (200, "application/json; charset=utf-8")
    assert json.loads(body)["jobs"][0]["model"] == "brain/1.0.0"


@pytest.mark.parametrize("page", PAGES)
def test_head_is_get_without_the_body(bench: Bench, page: str) -> None:
    with bench.running(*ROLES):
        response, body = ask(bench, page, "HEAD")
    assert (response.status, body) == (200, b"")
    assert int(response.getheader("Content-Length") or 0) > 0


@pytest.mark.parametrize("page", PAGES)
def test_no_cache_keeps_a_page(bench: Bench, page: str) -> None:
    response, _ = ask(bench, page)
    assert response.getheader("Cache-Control") == "no-store"
    assert response.getheader("Server", "").strip() == "appliance"  # no versions for who looks for holes


def test_a_query_is_passed_over(bench: Bench) -> None:
    assert ask(bench, "/healthz?verbose=1")[0].status == 200


@pytest.mark.parametrize("path", ["/", "/metrics/", "/../../etc/passwd", "/%2e%2e/etc/passwd", "/METRICS", "*"])
def test_an_unknown_page_names_those_that_there_are(bench: Bench, path: str) -> None:
    response, body = ask(bench, path)
    assert response.status == 404
    assert json.loads(body) == {"error": "pages: /metrics, /healthz, /readyz, /status"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_nothing_can_be_changed(bench: Bench, method: str) -> None:
    response, body = ask(bench, "/status", method)
    assert response.status == 501
    assert response.getheader("Content-Type") == "text/plain; charset=utf-8"
    assert body.startswith(b"501 Unsupported method")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x00\x01\x02\xff\r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/9.9\r\n\r\n", b"505"),
        (b"GET /" + b"a" * 70000 + b" HTTP/1.0\r\n\r\n", b"414"),
        (b"GET /healthz HTTP/1.0\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /healthz HTTP/1.0\r\nX: " + b"y" * 70000 + b"\r\n\r\n", b"431"),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"200"),
    ],
)
def test_broken_requests(bench: Bench, request_bytes: bytes, status: bytes) -> None:
    answer = ask_raw(bench, request_bytes)
    assert status in answer.splitlines()[0]
    assert ask(bench, "/healthz")[0].status == 200


def test_a_client_that_only_connects_delays_nobody_and_is_dropped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module._Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", bench.port), timeout=10) as slow:
        slow.sendall(b"GET /healthz HT")
        assert ask(bench, "/healthz")[0].status == 200
        assert slow.recv(100) == b""


def test_a_client_that_goes_away_is_no_news(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    for _ in range(5):
        client = socket.create_connection(("127.0.0.1", bench.port), timeout=10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        client.close()  # with a reset
    assert ask(bench, "/healthz")[0].status == 200
    wait_for(lambda: threading.active_count() <= before, what="end of the requests' threads")
    assert capfd.readouterr().err == ""


def test_many_at_once(bench: Bench) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda page=page: statuses.append(ask(bench, page)[0].status))
        for page in ("/metrics", "/healthz", "/status") * 8
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 24


def test_a_page_that_fails_fails_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("the reason, with data")

    monkeypatch.setattr(JournalCollector, "collect", broken)
    with caplog.at_level(logging.ERROR, logger="appliance.console.server"):
        response, body = ask(bench, "/metrics")
    assert response.status == 500
    assert json.loads(body) == {"error": "internal error, see the console's log"}
    assert "cannot make the page /metrics" in caplog.text
    assert ask(bench, "/healthz")[0].status == 200


def test_a_port_that_is_taken_is_named_with_the_mend(bench: Bench) -> None:
    second = Console(bench.settings, bench.layout, on_fatal=lambda: None)
    with pytest.raises(ConfigurationError, match=r"cannot listen on 127.0.0.1 port \d+: found Address already in use"):
        second.start()
    second.stop()


def test_a_host_that_is_not_here(tmp_path: Path) -> None:
    settings = Settings(console=ConsoleSettings(host="192.0.2.1", port=free_port()))
    console = Console(settings, StateLayout(tmp_path), on_fatal=lambda: None)
    with pytest.raises(ConfigurationError, match=r"Correct console\.host or console.port"):
        console.start()
    console.stop()


def test_stop_frees_the_port(tmp_path: Path) -> None:
    for _ in range(2):
        bench = Bench(tmp_path)
        bench.console.start()
        assert ask(bench, "/healthz")[0].status == 200
        bench.console.stop()
        bench.journal.close()
        with pytest.raises(ConnectionRefusedError):
            ask(bench, "/healthz")
