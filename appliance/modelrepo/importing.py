"""A model package from a bare ONNX file: whole or not at all, and not ready before a person settled what is open."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from appliance.errors import ConfigurationError, ModelPackageError
from appliance.manifest.manifest import Manifest
from appliance.manifest.reader import read_manifest
from appliance.modelrepo.bare_network import BareNetwork, read_network
from appliance.modelrepo.imported_manifest import WEIGHTS_FILE, imported_manifest
from appliance.modelrepo.package import file_sha256
from appliance.spool.durable import ensure_folder, fsync_file, fsync_folder

Trial = Callable[[Path, Manifest], None]
"""Gets the ONNX file and the manifest, and raises when the network does not run."""

_NAME = re.compile(r"[a-z][a-z0-9-]{1,62}")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_SCRATCH = ".import-"


def import_network(
    source: Path, engines: Path, *, name: str | None, version: str, trial: Trial
) -> tuple[Path, BareNetwork, Manifest]:
    """Make the package ``engines/<name>/<version>`` of an ONNX file; return its folder, the network and the manifest.

    Parameters
    ----------
    source
        The ONNX file; weights that it keeps in files beside it are brought into the package's own.
    engines
        Folder of model packages; made when it is missing.
    name
        Of the package; ``None`` takes the file's.
    trial
        Called before the package gets its name: what it raises leaves nothing behind.

    Raises
    ------
    ConfigurationError
        The name or version is none, or taken.
    ModelPackageError
        The file is damaged, or its network none that the appliance can run; the message says why.
    OSError
        The file cannot be read, or the folder cannot be written.
    """
    name = _checked_name(source, name)
    if not _VERSION.fullmatch(version):
        raise ConfigurationError(f"{version!r} is no version", expected="three numbers, such as 1.0.0")
    target = engines / name / version
    if target.exists():
        raise ConfigurationError(
            f"there is a package {name}/{version} already, and a version never changes",
            mend="Give another --version, or another --name",
        )
    if not source.is_file():
        raise ConfigurationError(f"there is no file {source}", mend="Give the path of an ONNX file")
    try:
        network = read_network(source)
    except ValueError as error:
        raise ModelPackageError(f"{source.name} cannot become a model package", found=str(error)) from error
    ensure_folder(engines)
    scratch = Path(tempfile.mkdtemp(dir=engines, prefix=_SCRATCH))
    try:
        manifest = _write(scratch, network, source.name, name, version)
        trial(scratch / WEIGHTS_FILE, manifest)
        for path in scratch.iterdir():
            fsync_file(path)
        fsync_folder(scratch)
        scratch.chmod(0o755)  # made for its owner alone; the roles run as another user
        ensure_folder(target.parent)
        scratch.rename(target)
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target, network, manifest


def _checked_name(source: Path, name: str | None) -> str:
    if name is None:
        name = re.sub(r"[^a-z0-9]+", "-", source.stem.lower()).strip("-")[:63]
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"{source.name} gives no name for a package", mend="Give --name")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no name for a package", expected="a to z, 0 to 9 and hyphens, a letter first, 2 to 63 of them"
        )
    return name


def _write(folder: Path, network: BareNetwork, file_name: str, name: str, version: str) -> Manifest:
    (folder / WEIGHTS_FILE).write_bytes(network.content)
    sha256 = file_sha256(folder / WEIGHTS_FILE)
    (folder / "manifest.yaml").write_text(imported_manifest(network, name, version, sha256), encoding="utf-8")
    (folder / "MODEL_CARD.md").write_text(_card(network, file_name, name, version, sha256), encoding="utf-8")
    return read_manifest(folder / "manifest.yaml")


def _card(network: BareNetwork, file_name: str, name: str, version: str, sha256: str) -> str:
    """What is known; what the model was trained on and how good it is only its authors can add."""
    axes = " × ".join("free" if size is None else str(size) for size in network.axes)
    free = f", multiples of {network.multiple}" if None in network.axes and network.multiple > 1 else ""
    facts = {
        "Imported from": file_name,
        "Weights brought in from": ", ".join(network.embedded),
        "SHA-256 of the ONNX file": sha256,
        "Exported by": network.producer,
        "Author": network.author,
        "Licence": network.licence,
        "Input": f"{network.input_tensor}, float32, axes {axes}{free}",
        "Output": f"{network.output_tensor}, {network.channels} channel(s), {network.values}",
    }
    rows = "\n".join(f"| {title} | {_cell(text)} |" for title, text in facts.items() if text)
    return (
        f"# {name} {version}\n\n"
        "**For research and demonstration. Not a medical device, not cleared, not for diagnosis.**\n\n"
        f"| | |\n|---|---|\n{rows}\n\n"
        "Training data, processing, measured quality and limits are not known: whoever settles the open points of the\n"
        "manifest writes them here.\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
