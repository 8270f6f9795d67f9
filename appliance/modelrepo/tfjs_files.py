"""The files of a TensorFlow.js layers model: ``model.json`` and its shards, read as data and checked.

Layout: TensorFlow.js, ``io.ModelJSON`` and ``io.WeightsManifestConfig``; layers as ``keras.Model.get_config`` has them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

TOPOLOGY = "model.json"

_Kind = TypeVar("_Kind")

_MAX_TOPOLOGY_BYTES = 16 * 1024 * 1024
_MAX_WEIGHTS_BYTES = 1024 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its class in Keras, its name, and its settings as they stand in the file."""

    kind: str
    name: str
    config: Mapping[str, Any]

    def integers(self, option: str, count: int, largest: int) -> list[int]:
        """Return ``count`` integers from 1 to ``largest``; a setting of one may stand without its brackets."""
        value = self.config.get(option)
        numbers = [value] if count == 1 else value
        if not isinstance(numbers, list) or len(numbers) != count:
            raise ValueError(f"{option} is {value!r}, expected {count} whole numbers")
        for number in numbers:
            if type(number) is not int or not 1 <= number <= largest:
                raise ValueError(f"{option} is {value!r}, expected whole numbers from 1 to {largest}")
        return list(numbers)

    def flag(self, option: str) -> bool:
        """Return a truth value; Keras' default is yes for all that are asked for here."""
        value = self.config.get(option, True)
        if value is not True and value is not False:
            raise ValueError(f"{option} is {value!r}, expected true or false")
        return value is True

    def number(self, option: str, default: float) -> float:
        """Return a finite number."""
        value = self.config.get(option, default)
        # A whole number of JSON may be too long for a float; compared, it is not converted.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e30:
            raise ValueError(f"{option} is no number of a believable size")
        return float(value)


def read_layers_model(files: Mapping[str, Path]) -> tuple[list[Layer], dict[str, NDArray[np.float32]]]:
    """Return the layers, in the order in which they run, and the weights by name, in Keras' axis order.

    Parameters
    ----------
    files
        ``model.json`` and the shards that it lists, by name; others are not read.

    Raises
    ------
    ValueError
        A file is missing, damaged, too large, or not of this format, or the layers are no single chain; the message
        names what.
    OSError
        A file cannot be read.
    """
    text = _content(files, TOPOLOGY, _MAX_TOPOLOGY_BYTES)
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{TOPOLOGY}: no readable JSON: {error}") from error
    if _get(description, "format", str) != "layers-model":
        raise ValueError(f"{TOPOLOGY}: the format is {description['format']!r}, expected 'layers-model'")
    model = _get(_get(description, "modelTopology", dict), "model_config", dict)
    return _chain(_get(model, "config", dict)), _weights(_get(description, "weightsManifest", list), files)


def _chain(config: Mapping[str, Any]) -> list[Layer]:
    """The layers, each of which takes the output of the one before."""
    layers: list[Layer] = []
    for entry in _get(config, "layers", list):
        layer = Layer(_get(entry, "class_name", str), _get(entry, "name", str), _get(entry, "config", dict))
        if not _NAME.fullmatch(layer.name) or layer.name in {known.name for known in layers}:
            raise ValueError(f"{TOPOLOGY}: {layer.name[:128]!r} is no name for a layer, or is there twice")
        inbound = _get(entry, "inbound_nodes", list)
        if inbound != ([[[layers[-1].name, 0, 0, {}]]] if layers else []):
            raise ValueError(f"{TOPOLOGY}: layer {layer.name!r} does not take the output of the layer before it alone")
        if (layer.kind == "InputLayer") != (not layers):
            raise ValueError(f"{TOPOLOGY}: layer {layer.name!r}: the input must come first, and once")
        layers.append(layer)
    ends = [[layers[place].name, 0, 0] if layers else None for place in (0, -1)]
    if [config.get("input_layers"), config.get("output_layers")] != [[end] for end in ends]:
        raise ValueError(f"{TOPOLOGY}: the model's input and output are not those of its first and last layer")
    return layers


def _weights(groups: list[Any], files: Mapping[str, Path]) -> dict[str, NDArray[np.float32]]:
    weights: dict[str, NDArray[np.float32]] = {}
    for group in groups:
        paths = _get(group, "paths", list)
        data = b"".join(_content(files, path, _MAX_WEIGHTS_BYTES) for path in paths)
        start = 0
        for entry in _get(group, "weights", list):
            name, shape = _get(entry, "name", str), _get(entry, "shape", list)
            if _get(entry, "dtype", str) != "float32" or "quantization" in entry:
                raise ValueError(f"{TOPOLOGY}: the weights {name} are not plain float32")
            if not all(type(extent) is int and 0 < extent <= 1 << 24 for extent in shape) or len(shape) > 5:
                raise ValueError(f"{TOPOLOGY}: the weights {name} have no believable shape: {shape}")
            if name in weights:
                raise ValueError(f"{TOPOLOGY}: the weights {name} are listed twice")
            size = 4 * math.prod(shape)
            if start + size > len(data):
                raise ValueError(
                    f"{', '.join(paths)}: truncated: the weights {name} need bytes {start} to {start + size}, there "
                    f"are {len(data)}"
                )
            values = np.frombuffer(data, "<f4", math.prod(shape), start).reshape(shape).astype(np.float32)
            if not np.isfinite(values).all():
                raise ValueError(f"{', '.join(paths)}: the weights {name} have values that are no numbers")
            weights[name] = values
            start += size
        if start != len(data):
            raise ValueError(f"{', '.join(paths)}: {len(data)} bytes, of which {TOPOLOGY} lists only {start}")
    return weights


def _content(files: Mapping[str, Path], name: object, limit: int) -> bytes:
    if not isinstance(name, str) or name not in files:
        raise ValueError(f"{TOPOLOGY} names the shard {name!r}, which is not among {', '.join(sorted(files))}")
    size = files[name].stat().st_size
    if size > limit:
        raise ValueError(f"{name}: {size} bytes, expected at most {limit}")
    return files[name].read_bytes()


def _get(table: object, key: str, kind: type[_Kind]) -> _Kind:
    """Return an entry of a JSON object that must be of this type."""
    value = table.get(key) if isinstance(table, dict) else None
    if isinstance(value, kind):
        return value
    raise ValueError(f"{TOPOLOGY}: {key} is {type(value).__name__}, expected {kind.__name__}")
