"""Weights that an ONNX file keeps in files beside it (``external_data``), brought into the file itself.

A package names its weights by one SHA-256, which must cover all of them. Layout: ONNX, *External Data*.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import onnx
from onnx import TensorProto

_MAX_DEPTH = 16
_MAX_BYTES = (1 << 31) - (1 << 20)
"""Protocol Buffers end at 2 GiB; a little is left for the graph around the weights."""


def embed(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Read all external weights of a model into it; return the names of the files that they came from.

    Parameters
    ----------
    folder
        Where the ONNX file lies; the files must lie there or below.

    Raises
    ------
    ValueError
        A file is missing, shorter than the model says, or not below *folder*; or all weights are too much for one file.
    OSError
        A file cannot be read.
    """
    files: dict[str, Path] = {}
    total = 0
    for tensor in _tensors(model.graph, 0):
        if tensor.data_location != TensorProto.EXTERNAL:
            total += len(tensor.raw_data)
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        path = files.setdefault(location, _inside(folder, location))
        offset, length = _place(tensor.name, entries, path)
        total += length
        if total > _MAX_BYTES:
            raise ValueError(f"its weights are more than {_MAX_BYTES} bytes, which is too much for one file")
        with path.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    return sorted(files)


def _inside(folder: Path, location: str) -> Path:
    """The file, checked to lie below the folder: a network must not make its importer read anything else."""
    name = PurePosixPath(location)
    if not location or name.is_absolute() or ".." in name.parts:
        raise ValueError(f"it keeps weights in {location!r}, which is not the name of a file beside it")
    path = folder / name
    if not path.is_file():
        raise ValueError(f"it keeps weights in {location}, which is not beside it")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"it keeps weights in {location}, which is a link to another folder")
    return path


def _place(name: str, entries: dict[str, str], path: Path) -> tuple[int, int]:
    """Where in the file a tensor lies: offset and length in bytes."""
    size = path.stat().st_size
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(size - offset)))
    except ValueError:
        offset = length = -1
    if offset < 0 or length < 0 or offset + length > size:
        raise ValueError(
            f"the weights {name} are not in {path.name}: offset {entries.get('offset')}, length "
            f"{entries.get('length')}, the file has {size} bytes"
        )
    return offset, length


def _tensors(graph: onnx.GraphProto, depth: int) -> Iterator[TensorProto]:
    """All tensors of a graph: weights, constants, and those of the graphs inside its nodes."""
    if depth > _MAX_DEPTH:
        raise ValueError("its graphs are nested too deeply")
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _tensors(attribute.g, depth + 1)
            for inner in attribute.graphs:
                yield from _tensors(inner, depth + 1)
