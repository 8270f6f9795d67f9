"""Files at public addresses: downloaded or taken from a folder, and checked by SHA-256 before anybody reads them."""

from __future__ import annotations

import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from appliance.errors import ModelPackageError, WeightsUnavailable
from appliance.manifest.weights import FromWeb, WebFile
from appliance.modelrepo.package import file_sha256, require_sha256

_MAX_FILE_BYTES = 1024 * 1024 * 1024
_TIME_LIMIT_S = 1800.0
_SILENCE_LIMIT_S = 30.0
_BLOCK_BYTES = 64 * 1024
_OFFLINE = "Check the network and https_proxy, or bring the files: appliance models fetch --from DIR"


def bring(spec: FromWeb, scratch: Path, source: Path | None, progress: Callable[[str], None]) -> dict[str, Path]:
    """Return the files of a source, by name, each a copy of its own in ``scratch`` with the right SHA-256.

    Parameters
    ----------
    scratch
        An empty folder.
    source
        The folder that is searched, to the bottom, for files of the right name and content: several models may have a
        file of the same name. ``None`` downloads, over https only; urllib takes proxies and certificates from the
        environment.

    Raises
    ------
    WeightsUnavailable
        The address cannot be reached or does not answer in time, or the folder has no file of that name.
    ModelPackageError
        What was found is not what the manifest names, or larger than any such file.
    OSError
        ``scratch`` cannot take the files.
    """
    brought = {}
    for file in spec.files:
        copy = scratch / file.name
        if source is not None:
            shutil.copyfile(_found(file, source), copy)
            require_sha256(copy, file.sha256, f"{file.name} in {source}")
        else:
            progress(f"    downloading {file.url}")
            _download(file, copy)
            require_sha256(copy, file.sha256, f"{file.name} from {file.url}")
        brought[file.name] = copy
    return brought


def _found(file: WebFile, source: Path) -> Path:
    """The file of this name and content below a folder; where only the name is right, that one, to be refused."""
    candidates = sorted(path for path in source.rglob(file.name) if path.is_file())
    if not candidates:
        raise WeightsUnavailable(
            f"{source} has neither the finished file nor what it is made of",
            expected=f"{file.name}, as {file.url} has it",
            mend="Put it there, or in a folder below",
        )
    return next((path for path in candidates if _is_right(path, file)), candidates[0])


def _is_right(path: Path, file: WebFile) -> bool:
    return path.stat().st_size <= _MAX_FILE_BYTES and file_sha256(path) == file.sha256


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only where it stays as private as the address in the manifest."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError("it redirects to an address that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(file: WebFile, target: Path) -> None:
    until = time.monotonic() + _TIME_LIMIT_S
    with _answer(file) as response, target.open("wb") as stream:
        received, announced = 0, response.headers.get("Content-Length")
        while block := _block(response, file):
            received += len(block)
            if received > _MAX_FILE_BYTES:
                raise ModelPackageError(f"{file.url} is too large", found=f"more than {_MAX_FILE_BYTES} bytes")
            if time.monotonic() > until:
                raise _unreachable(file, f"{received} bytes in {_TIME_LIMIT_S:.0f} s")
            stream.write(block)
    # A body that breaks off ends like a whole one when it is read in blocks.
    if announced is not None and announced != str(received):
        raise _unreachable(file, f"{received} of {announced} bytes, then the connection broke off")


def _answer(file: WebFile) -> http.client.HTTPResponse:
    opener = urllib.request.build_opener(_HttpsOnly)
    try:
        response: http.client.HTTPResponse = opener.open(file.url, timeout=_SILENCE_LIMIT_S)
    except urllib.error.HTTPError as error:
        with error:
            raise _unreachable(file, f"the answer {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(file, str(getattr(error, "reason", error)) or type(error).__name__) from error
    return response


def _block(response: http.client.HTTPResponse, file: WebFile) -> bytes:
    """The next bytes. Failures of the network are told apart here from those of the disk, which are OSErrors too."""
    try:
        # Not read, which would wait for a whole block from a server that sends a byte now and then.
        return response.read1(_BLOCK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(file, str(error) or type(error).__name__) from error


def _unreachable(file: WebFile, found: str) -> WeightsUnavailable:
    return WeightsUnavailable(f"{file.url} cannot be downloaded", found=found[:200], mend=_OFFLINE)
