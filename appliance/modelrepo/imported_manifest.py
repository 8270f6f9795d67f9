"""The manifest of an imported network: what the file says, and what only a person knows as open points."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import yaml

from appliance.modelrepo.bare_network import BareNetwork

WEIGHTS_FILE = "model.onnx"

_LEAST, _TYPICAL, _MOST = 32, 128, 256
"""Samples per free axis of a volume; rounded up to what the network takes."""

_RADIOGRAPH = 512
_GOLDEN_ANGLE = 0.381966
"""Of a circle of hues: neighbours in a list get colors that differ much."""

_ANATOMY = '{value: "91723000", scheme: SCT, meaning: Anatomical Structure}'
_SOP_CLASSES = {
    "volume": (
        ("1.2.840.10008.5.1.4.1.1.2", "CT Image Storage"),
        ("1.2.840.10008.5.1.4.1.1.4", "MR Image Storage"),
    ),
    "projection": (
        ("1.2.840.10008.5.1.4.1.1.1", "Computed Radiography Image Storage"),
        ("1.2.840.10008.5.1.4.1.1.1.1", "Digital X-Ray Image Storage - For Presentation"),
    ),
}
_MEASUREMENTS = {
    "volume": ("volume_ml", '{value: "118565006", scheme: SCT, meaning: Volume}', "ml", "milliliter"),
    "projection": ("area_pixels", '{value: "42798000", scheme: SCT, meaning: Area}', "{pixels}", "pixels"),
}


@dataclass
class _Draft:
    """Lines of YAML, and the open points that stand among them as comments."""

    lines: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)

    def add(self, *lines: str) -> None:
        self.lines += lines

    def ask(self, point: str, indent: int = 0) -> None:
        """Note that somebody has to decide what the next line says."""
        self.points.append(point)
        self.lines.append(f"{' ' * indent}# OPEN: {point}")


def imported_manifest(network: BareNetwork, name: str, version: str, sha256: str) -> str:
    """Return the text of a manifest; every value that is a guess has an open point, so that it cannot serve yet."""
    kind = "volume" if len(network.axes) == 3 else "projection"
    body = _Draft()
    body.ask("title: say in at most 60 characters what the model finds")
    body.add(f"title: {_scalar(name.replace('-', ' ').capitalize()[:60])}")
    body.ask(
        "algorithm: name and version as its authors call it" + (", and who they are" if not network.author else "")
    )
    body.add(
        "algorithm:",
        f"  name: {_scalar(name)}",
        f"  version: {_scalar(version)}",
        f"  manufacturer: {_scalar(network.author or 'unknown')}",
        '  family: {value: "123110", scheme: DCM, meaning: Artificial Intelligence}',
    )
    body.ask("intended_use: say what the model is for; the last sentences stay as long as it is not cleared")
    body.add("intended_use: AI result, for research use, verify. Not cleared for clinical use; not a diagnosis.")
    if not network.licence:
        body.ask("licence: of the weights; the file does not say")
    body.add(f"licence: {_scalar(network.licence or 'unknown')}", "activation: manual")
    body.add(f"scope: {'series' if kind == 'volume' else 'instance'}", "")
    _add_match(body, kind)
    body.add(
        "weights:",
        f"  - file: {WEIGHTS_FILE}",
        f"    sha256: {sha256}",
        "    source: {kind: package}",
        "",
    )
    _add_stage(body, network, kind)
    _add_readout(body, network, kind)
    body.add(
        "",
        "runtime:",
        "  backends: [onnxruntime, openvino]",
        "  precision: float32",
        f"  time_limit_s: {120 if kind == 'volume' else 30}",
        "",
    )
    body.ask("golden: a real image and what must be found in it; without one, every result says that none was checked")
    body.add("golden: []")
    head = ["schema_version: 1", f"name: {name}", f"version: {version}"]
    listed = [
        "# While a point is here the model does not serve. Settle it below, then delete its line here.",
        "open_points:",
    ]
    return "\n".join([*head, *listed, *(f"  - {_scalar(point)}" for point in body.points), "", *body.lines, ""])


def _add_match(body: _Draft, kind: str) -> None:
    modalities = "[CT, MR]" if kind == "volume" else "[CR, DX]"
    body.add("match:")
    body.ask("match: which modality and SOP classes it was trained on, and conditions that keep other images out", 2)
    body.add(f"  modality: {modalities}", "  sop_class_uid:")
    body.add(*(f"    - {uid}   # {meaning}" for uid, meaning in _SOP_CLASSES[kind]), "", "input:", f"  kind: {kind}")
    if kind == "volume":
        body.ask("input: bounds of what it can judge: min_slices, max_slice_spacing_mm, min_extent_mm", 2)
        body.add("  min_slices: 2")
    body.add("")


def _add_stage(body: _Draft, network: BareNetwork, kind: str) -> None:
    free = None in network.axes
    cropped = kind == "volume" and all(size is None for size in network.axes)
    most = _sizes(network, _MOST if kind == "volume" else _RADIOGRAPH)
    if kind == "volume" and not cropped:
        most = _sizes(network, _TYPICAL)
    body.add("stages:", "  - name: segment", f"    weights: {WEIGHTS_FILE}")
    body.add(f"    input_tensor: {_scalar(network.input_tensor)}")
    multiples = f"any multiple of {network.multiple}" if network.multiple > 1 else "any size"
    if free:
        body.ask(f"input_shape: the network takes {multiples} along its free axes; choose those it was trained with", 4)
    body.add(f"    input_shape: {[1, 1, *most]}")
    if cropped:
        least, typical = _sizes(network, _LEAST), _sizes(network, _TYPICAL)
        body.add(f"    profile: {{min: {[1, 1, *least]}, typical: {[1, 1, *typical]}}}")
    what = "orientation, spacing (resample) and intensities" if kind == "volume" else "size and intensities"
    body.ask(f"steps: prepare images as they were for training: {what}; the steps are in engines/README.md", 4)
    body.add("    steps:")
    if kind == "volume":
        body.add("      - {step: orient, axes: RAS}")
    if cropped:
        body.add("      - {step: scale_range}")
        body.add(f"      - {{step: crop_to_foreground, level: 0.1, multiple: {_multiple(network)}}}")
    else:
        interpolation = "linear" if kind == "volume" else "area"
        body.add(
            f"      - {{step: resize, shape: {most}, interpolation: {interpolation}}}", "      - {step: scale_range}"
        )
    if network.other_outputs:
        others = ", ".join(network.other_outputs)
        body.ask(
            f"output_tensor: {network.output_tensor} is the first with the grid of the input; there is also {others}", 4
        )
    body.add(f"    output_tensor: {_scalar(network.output_tensor)}", "")


def _add_readout(body: _Draft, network: BareNetwork, kind: str) -> None:
    readout, channels = _readout(network)
    body.add("readout:")
    if network.values == "scores" and network.channels == 1:
        body.ask(
            "readout: the one channel does not come from a sigmoid, but threshold wants a probability: export it with",
            2,
        )
    elif network.values == "scores":
        body.ask(
            "readout: the channels are scores; labels takes the highest, which is wrong where structures overlap", 2
        )
    body.add(f"  kind: {readout}", f"  restore: {'nearest' if readout == 'labels' else 'linear'}")
    if network.values == "labels":
        body.ask("structures: add one for each label of the network; background is 0", 2)
    body.ask("structures: name and code what each channel is, and give its plausible sizes; leave out what is none", 2)
    body.add("  structures:")
    quantity, concept, unit, meaning = _MEASUREMENTS[kind]
    for number, channel in enumerate(channels):
        color = [round(255 * part) for part in colorsys.hsv_to_rgb(number * _GOLDEN_ANGLE % 1.0, 0.75, 1.0)]
        body.add(
            f"    - label: Structure {channel}",
            f"      channel: {channel}",
            f"      category: {_ANATOMY}",
            f"      structure: {_ANATOMY}",
            f"      color: {color}",
            "      measurements:",
            f"        - quantity: {quantity}",
            f"          concept: {concept}",
            f"          unit: {{value: {_scalar(unit)}, scheme: UCUM, meaning: {meaning}}}",
        )


def _readout(network: BareNetwork) -> tuple[str, Sequence[int]]:
    """How the output is read, and the channels that are structures: where they exclude each other, 0 is background."""
    if network.values == "labels":
        return "labels", [1]
    if network.values == "probability" or network.channels == 1:
        return "threshold", range(network.channels)
    return "argmax" if network.values == "softmax" else "labels", range(1, network.channels)


def _sizes(network: BareNetwork, wanted: int) -> list[int]:
    """The size along each axis: that of the network, or about what is wanted where it is free."""
    multiple = _multiple(network)
    return [math.ceil(wanted / multiple) * multiple if size is None else size for size in network.axes]


def _multiple(network: BareNetwork) -> int:
    """Of the size of a cropped volume: a network that takes every size shall still not see a new one each time."""
    return max(network.multiple, 16)


def _scalar(text: str) -> str:
    """A string as YAML, on one line and in quotes whatever is in it."""
    return str(yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=True)).strip()
