"""Files of public addresses: over a real TLS connection, or from a folder, never read before they are known."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import pytest

from appliance.errors import ModelPackageError, WeightsUnavailable
from appliance.manifest.weights import FromWeb
from appliance.modelrepo import web
from appliance.modelrepo.fetch import fetch
from appliance.modelrepo.keras_layers import convert
from appliance.modelrepo.repository import ModelRepository
from tests.support.ports import free_port
from tests.unit.modelrepo.layers_models import write_model
from tests.unit.modelrepo.packages import sha256, write_package


class Site(ThreadingHTTPServer):
    """Serves ``content`` by path; other paths misbehave in the way that they are called."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        return f"https://localhost:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A peer that hangs up, which clients that refuse a certificate do, is no error here."""


class Answer(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.content.get(self.path)
        if self.path.startswith("/redirect/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/redirect/"))
            self.end_headers()
        elif self.path == "/silent":
            self.server.closing.wait(60)
        elif content is None:
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) + (9 if "broken" in self.path else 0)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    made, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(made)],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key


@pytest.fixture
def site(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site whose certificate this process trusts, as an operator would make it: by the environment."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    monkeypatch.setenv("no_proxy", "localhost")
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with Site() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def spec(url: str, content: bytes = b"weights", name: str = "model.bin") -> FromWeb:
    file = {"name": name, "url": url, "sha256": sha256(content)}
    return FromWeb.model_validate({"kind": "web", "files": [file], "converter": "keras-layers"})


def bring(wanted: FromWeb, scratch: Path, source: Path | None = None) -> bytes:
    (path,) = web.bring(wanted, scratch, source, lambda line: None).values()
    return path.read_bytes()


def test_from_addresses_to_a_network(site: Site, tmp_path: Path) -> None:
    """All the way: two shards and the layers are downloaded, checked, and converted."""
    (tmp_path / "made").mkdir()
    files = write_model(tmp_path / "made")
    convert(files, tmp_path / "made" / "model.onnx")
    site.content = {f"/{name}": path.read_bytes() for name, path in files.items()}
    sources = [
        {"name": name, "url": f"{site.address}/{name}", "sha256": sha256(path.read_bytes())}
        for name, path in files.items()
    ]
    expected = (tmp_path / "made" / "model.onnx").read_bytes()
    source = {"kind": "web", "files": sources, "converter": "keras-layers"}
    weights = [{"file": "model.onnx", "sha256": sha256(expected), "source": source}]
    write_package(tmp_path / "engines", weights=weights)
    package = ModelRepository(tmp_path / "engines", tmp_path / "state").packages[0]
    with pytest.raises(WeightsUnavailable, match="Get it: appliance models fetch brain"):
        package.require_weights()
    assert fetch(package, source=None, progress=lambda line: None)
    assert package.require_weights()["model.onnx"].read_bytes() == expected
    assert not fetch(package, source=None, progress=lambda line: None)
    assert sorted(site.asked) == sorted(site.content)


def test_a_file_that_was_replaced_is_not_read(site: Site, tmp_path: Path) -> None:
    site.content["/model.bin"] = b"other weights"
    with pytest.raises(ModelPackageError, match=r"model\.bin from https://.* is not what the manifest names"):
        bring(spec(f"{site.address}/model.bin"), tmp_path)


def test_redirects_are_followed_as_long_as_they_stay_private(site: Site, tmp_path: Path) -> None:
    site.content["/model.bin"] = b"weights"
    assert bring(spec(f"{site.address}/redirect/{site.address}/model.bin"), tmp_path) == b"weights"
    with pytest.raises(WeightsUnavailable, match="redirects to an address that is not https"):
        bring(spec(f"{site.address}/redirect/http://localhost:{site.server_port}/model.bin"), tmp_path)


def test_a_certificate_that_nobody_vouches_for(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(WeightsUnavailable, match=r"certificate verify failed.*--from DIR"):
        bring(spec(f"{site.address}/model.bin"), tmp_path)
    assert site.asked == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/absent", "the answer 404 Not Found"),
        ("/broken", "7 of 16 bytes, then the connection broke off"),
        ("/silent", "timed out"),
    ],
)
def test_an_address_that_gives_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    site.content["/broken"] = b"weights"
    monkeypatch.setattr(web, "_SILENCE_LIMIT_S", 0.5)
    with pytest.raises(WeightsUnavailable, match=rf"cannot be downloaded: found .*{message}.*--from DIR"):
        bring(spec(f"{site.address}{path}"), tmp_path)


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "localhost")
    with pytest.raises(WeightsUnavailable, match="Connection refused"):
        bring(spec(f"https://localhost:{free_port()}/model.bin"), tmp_path)


def test_the_proxy_of_the_environment_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Proxy(Answer):
        def do_CONNECT(self) -> None:
            self.server.asked.append(self.path)
            self.send_error(407)

    with Site() as server:
        server.RequestHandlerClass = Proxy
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(WeightsUnavailable, match="407 Proxy Authentication Required"):
            bring(spec("https://weights.example/model.bin"), tmp_path)
        server.shutdown()
        thread.join()
    assert server.asked == ["weights.example:443"]


def test_size_and_time_are_limited(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.content["/model.bin"] = b"weights"
    with monkeypatch.context() as patch:
        patch.setattr(web, "_TIME_LIMIT_S", -1.0)
        with pytest.raises(WeightsUnavailable, match="7 bytes in"):
            bring(spec(f"{site.address}/model.bin"), tmp_path)
    monkeypatch.setattr(web, "_MAX_FILE_BYTES", 6)
    with pytest.raises(ModelPackageError, match="too large: found more than 6 bytes"):
        bring(spec(f"{site.address}/model.bin"), tmp_path)


def test_a_folder_is_searched_to_the_bottom(tmp_path: Path) -> None:
    """Models of one publisher all call their files alike."""
    for folder, content in (("a", b"other"), ("b/public/models/one", b"weights"), ("c", b"another")):
        (tmp_path / "stick" / folder).mkdir(parents=True)
        (tmp_path / "stick" / folder / "model.bin").write_bytes(content)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "empty").mkdir()
    wanted = spec("https://weights.example/model.bin")
    assert bring(wanted, tmp_path / "scratch", tmp_path / "stick") == b"weights"
    (tmp_path / "stick" / "b/public/models/one" / "model.bin").unlink()
    with pytest.raises(ModelPackageError, match=r"model\.bin in .*stick is not what the manifest names"):
        bring(wanted, tmp_path / "scratch", tmp_path / "stick")
    with pytest.raises(WeightsUnavailable, match=r"expected model\.bin, as https://weights\.example/model\.bin has it"):
        bring(wanted, tmp_path / "scratch", tmp_path / "empty")
