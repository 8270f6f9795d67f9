"""``appliance models import``: a model package from a bare ONNX file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from appliance.backends.table import choose
from appliance.config.reader import read_settings
from appliance.errors import InferenceFailed, ModelPackageError
from appliance.manifest.manifest import Manifest
from appliance.modelrepo.bare_network import BareNetwork
from appliance.modelrepo.importing import import_network
from appliance.pipeline.model import network_of
from appliance.services.inference import thread_count
from appliance.services.models import engines_folder
from appliance.services.role import state_of


def import_model(
    config: Path | None, state_dir: Path | None, file: Path, *, name: str | None, version: str, output: Path | None
) -> int:
    """Read the file, run its network once, write the package, and print what is found and what is open."""
    settings = read_settings(config)
    layout = state_of(settings, state_dir)
    trials: list[str] = []

    def trial(model: Path, manifest: Manifest) -> None:
        backend = choose(["onnxruntime"], "float32", threads=thread_count(settings), cache=layout.cache)
        spec = network_of(manifest, manifest.stages[0])
        spec = replace(spec, typical_shape=spec.min_shape)  # it is run once as it is opened: on the smallest shape
        try:
            with backend.open(model, spec) as session:
                size = " × ".join(map(str, spec.warm_up_shape[2:]))
                trials.append(f"{size} in {session.seconds:.2g} s on {backend.name} {backend.version()}")
        except (ModelPackageError, InferenceFailed) as error:
            raise ModelPackageError(
                f"{file.name} cannot become a model package: {error.what.replace(model.name, 'it')}",
                found=error.found,
                mend="Export it for ONNX Runtime: standard operators, an opset that it knows, whole weights",
            ) from error

    engines = output or engines_folder(settings)
    folder, network, manifest = import_network(file, engines, name=name, version=version, trial=trial)
    print(f"{manifest.key}: {folder}")
    for title, text in {**_facts(network), "runs": trials[0]}.items():
        print(f"    {title:12}{text}")
    print(f"{len(manifest.open_points)} open points; until they are settled in manifest.yaml it does not serve:")
    for number, point in enumerate(manifest.open_points, start=1):
        print(f"    {number:2}. {point}")
    if engines.resolve() != engines_folder(settings).resolve():
        print(f"The appliance looks in {engines_folder(settings)} (models.folder in the settings).")
    return 0


def _facts(network: BareNetwork) -> dict[str, str]:
    axes = ", ".join("free" if size is None else str(size) for size in network.axes)
    free = f", multiples of {network.multiple}" if None in network.axes and network.multiple > 1 else ""
    facts = {
        "input": f"{network.input_tensor}: float32 [1, 1, {axes}]{free}",
        "output": f"{network.output_tensor}: {network.channels} channel(s), {network.values}",
    }
    if network.embedded:
        facts["weights"] = f"brought in from {', '.join(network.embedded)}"
    return facts
