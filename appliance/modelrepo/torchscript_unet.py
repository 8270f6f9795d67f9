"""TorchScript archive of a 3D segmentation network -> ONNX, without torch.

A TorchScript archive (``torch.jit.save``) is a zip of

* ``<root>/data.pkl``: a pickle of the module tree, its tensors as persistent identifiers,
* ``<root>/data/<key>``: the storages of those tensors, little-endian float32,
* ``<root>/code/**.py``: the ``forward`` methods as TorchScript, whose grammar is a subset of Python's.

All three are read as *data*. The unpickler resolves no name to a real object (it knows tensors and inert
module records, nothing else); the code is parsed with :mod:`ast` and traced symbolically: each operator of
``_OPERATORS`` becomes a node of the ONNX graph, anything else is refused. Nothing in the archive is executed.
Wiring, strides, paddings and epsilons come from the archive, not from a description kept here.

Written for the two networks of deepbet 1.0.2 (box and mask), which share one architecture: a LinkNet in three
dimensions, 2.1 M parameters. Activations are [N, C, D, H, W]; D, H, W are the axes of the caller's grid (for
deepbet: towards right, anterior, superior). *IN* is instance normalisation without affine parameters:

======== ==================================================================== ============== ============
layer    operations                                                           channels       grid
======== ==================================================================== ============== ============
init     conv 7^3 stride 2, IN, ReLU, max-pool 3^3 stride 2                   1 -> 16        1 -> 1/4
down0    2 residual blocks, each conv 3^3, IN, ReLU, conv 3^3, IN, +, ReLU    16             1/4
down1..3 as down0; block 1 has stride 2 and conv 1^3, IN as its shortcut      c -> 2c        1/4 -> 1/32
up0..2   conv 1^3, IN, ReLU, transposed conv 3^3 stride 2, IN, ReLU,          c -> c/4       1/32 -> 1/4
         conv 1^3, IN, ReLU; + the output of the down layer on that grid      -> c/2
up3      as up0..2, the transposed conv with stride 1; + the output of init   16 -> 4 -> 16  1/4
tp_conv1 transposed conv 3^3 stride 2, IN, ReLU                               16 -> 8        1/4 -> 1/2
conv     conv 3^3, IN, ReLU                                                   8              1/2
tp_conv2 transposed conv 2^3 stride 2, softmax over background, foreground    8 -> 2         1/2 -> 1
======== ==================================================================== ============== ============

Layout of the archive: PyTorch, *TorchScript serialization* (``torch/csrc/jit/docs/serialization.md``).
"""

from __future__ import annotations

import ast
import io
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUT_NAME = "volume"
OUTPUT_NAME = "probability"
OPSET_VERSION = 17
IR_VERSION = 8  # that of opset 17; the default follows the onnx release and would change the bytes

_MAX_ARCHIVE_BYTES = 256 * 1024 * 1024
_MAX_CALL_DEPTH = 32

# What damaged or hostile content makes the readers raise; both modules document their lists as open.
_UNPICKLING_FAILURES = (
    *(pickle.UnpicklingError, EOFError, ImportError, AttributeError, LookupError, TypeError, ValueError),
    *(OverflowError, MemoryError, RecursionError),
)
_UNZIPPING_FAILURES = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)


def convert(archive: Path, destination: Path, *, grid: tuple[int, int, int]) -> None:
    """Write the network of *archive* as ONNX (opset 17, float32) to *destination*.

    The bytes depend on the archive's weights and code and on *grid* alone, so their SHA-256 can be pinned.

    Args:
        archive: a TorchScript archive (``.pt``) of a network [1, 1, D, H, W] -> softmax [1, 2, D, H, W].
        destination: file to write; its folder exists. An existing file is replaced.
        grid: D, H, W of the input, in voxels. The network is fully convolutional, so the archive does not say
            it; it is fixed in the ONNX so that every inference backend can plan its memory. Multiples of 32.

    Raises:
        ValueError: *archive* is no readable TorchScript archive, names an object or an operator that this
            module does not know, or its network does not map [1, 1, D, H, W] to two classes on the same grid.
        OSError: *archive* cannot be read or *destination* cannot be written.
    """
    model = onnx_model(archive, grid=grid)
    destination.write_bytes(model.SerializeToString(deterministic=True))


def onnx_model(archive: Path, *, grid: tuple[int, int, int]) -> onnx.ModelProto:
    """The network of *archive* as a checked ONNX model; arguments and errors as for :func:`convert`.

    Input ``volume``: float32 [1, 1, D, H, W], intensities normalised as the network was trained. Output
    ``probability``: float32 [1, 1, D, H, W], 0..1, of the second class (the foreground).
    """
    network, sources = _read_archive(archive)
    tracer = _Tracer(sources)
    try:
        output = tracer.call(network, "forward", [_Tensor(INPUT_NAME, channels=1)])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{archive.name}: not a network that can be converted: {error}") from error
    if not isinstance(output, _Tensor) or not tracer.nodes or output.name != tracer.nodes[-1].output[0]:
        raise ValueError(f"{archive.name}: forward() does not return the tensor it computes last")
    tracer.nodes[-1].output[0] = OUTPUT_NAME
    shape = [1, 1, *grid]
    graph = helper.make_graph(
        tracer.nodes,
        "segmentation",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values, name) for name, values in tracer.initializers.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET_VERSION)], ir_version=IR_VERSION, producer_name=""
    )
    try:
        # full_check infers every shape: it refuses kernels that do not fit their inputs, skip connections
        # between different grids, and an output whose shape is not the one declared above.
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"{archive.name}: no network from {shape} to {shape}: {error}") from error
    return model


# --- the archive --------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Parameter:
    """A weight, float32, in PyTorch's axis order, with its dotted path in the module tree."""

    values: NDArray[np.float32]
    path: str = ""


class _Module:
    """Inert record of a module of the tree: the class it names and its attributes. It has no behaviour."""

    class_name: str
    attributes: Mapping[str, Any] = MappingProxyType({})

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise pickle.UnpicklingError(f"{self.class_name}: the state of a module is a table of attributes")
        self.attributes = state


@dataclass(frozen=True)
class _StorageType:
    """What ``torch.FloatStorage`` stands for in a persistent identifier; not callable, holds nothing."""

    dtype: str


class _TensorUnpickler(pickle.Unpickler):
    """Unpickler that knows float32 tensors and module records, and refuses every other global.

    The default ``find_class`` imports what the stream names and lets it be called, which is how a pickle runs
    code; this one never reaches it.
    """

    def __init__(self, stream: bytes, storages: Mapping[str, bytes]) -> None:
        super().__init__(io.BytesIO(stream))
        self._storages = storages
        self._admitted: dict[tuple[str, str], object] = {
            ("torch", "FloatStorage"): _StorageType("<f4"),
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("collections", "OrderedDict"): _no_hooks,
        }

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name.split(".")[0] == "__torch__" and global_name.isidentifier():
            return type(global_name, (_Module,), {"class_name": f"{module_name}.{global_name}"})
        try:
            return self._admitted[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused to load {module_name}.{global_name}") from None

    def persistent_load(self, pid: Any) -> NDArray[np.float32]:
        """Storage named by ``('storage', type, key, location, count)``: float32 [count], read-only."""
        kind, storage_type, key, _location, count = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or key not in self._storages:
            raise pickle.UnpicklingError(f"no float32 storage {key!r} in the archive")
        storage: NDArray[np.float32] = np.frombuffer(self._storages[key], dtype=storage_type.dtype)
        if storage.size != count:
            raise pickle.UnpicklingError(f"storage {key!r} has {storage.size} elements instead of {count}")
        return storage


def _no_hooks() -> None:
    """Stands for the empty ``OrderedDict`` of backward hooks in each pickled tensor."""


def _rebuild_tensor(
    storage: NDArray[np.float32], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> _Parameter:
    """Tensor on *storage*; only whole, C-contiguous ones, as ``torch.jit.save`` writes parameters."""
    contiguous = tuple(int(np.prod(size[axis + 1 :], dtype=np.int64)) for axis in range(len(size)))
    if offset != 0 or tuple(stride) != contiguous or storage.size != np.prod(size, dtype=np.int64):
        raise pickle.UnpicklingError(f"tensor of shape {size} is not the whole of its storage in C order")
    return _Parameter(storage.reshape(size))


def _read_archive(archive: Path) -> tuple[_Module, dict[str, str]]:
    """Module tree of *archive* and its TorchScript sources by dotted module name."""
    try:
        with zipfile.ZipFile(archive) as container:
            if sum(entry.file_size for entry in container.infolist()) > _MAX_ARCHIVE_BYTES:
                raise ValueError(f"{archive.name}: larger than {_MAX_ARCHIVE_BYTES} bytes when unpacked")
            entries = {name.partition("/")[2]: container.read(name) for name in container.namelist()}
    except _UNZIPPING_FAILURES as error:
        raise ValueError(f"{archive.name}: damaged or no zip archive: {error}") from error
    if "data.pkl" not in entries:
        raise ValueError(f"{archive.name}: no TorchScript archive: it has no data.pkl")
    storages = {name[len("data/") :]: data for name, data in entries.items() if name.startswith("data/")}
    try:
        network = _TensorUnpickler(entries["data.pkl"], storages).load()
        if not isinstance(network, _Module):
            raise pickle.UnpicklingError(f"a {type(network).__name__} where the network is expected")
        _name_parameters(network, "", 0)
        sources = {
            name[len("code/") : -len(".py")].replace("/", "."): text.decode("utf-8")
            for name, text in entries.items()
            if name.startswith("code/") and name.endswith(".py")
        }
    except _UNPICKLING_FAILURES as error:
        raise ValueError(f"{archive.name}: {error or type(error).__name__}") from error
    return network, sources


def _name_parameters(module: _Module, path: str, depth: int) -> None:
    if depth > _MAX_CALL_DEPTH:
        raise pickle.UnpicklingError("the module tree is nested too deeply")
    for name, attribute in module.attributes.items():
        if isinstance(attribute, _Parameter):
            attribute.path = path + name
        elif isinstance(attribute, _Module):
            _name_parameters(attribute, f"{path}{name}.", depth + 1)


# --- the trace ----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Tensor:
    """An activation [N, C, D, H, W]. In-place operators rename it, so that every alias sees the new value."""

    name: str
    channels: int


@dataclass
class _Tracer:
    """Follows ``forward`` through the sources and collects the ONNX nodes and weights it stands for."""

    sources: Mapping[str, str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _methods: dict[tuple[str, str], ast.FunctionDef] = field(default_factory=dict)

    def call(self, module: _Module, method_name: str, arguments: Sequence[Any], depth: int = 0) -> Any:
        """Value of ``module.method_name(*arguments)``; *depth* counts the calls around it."""
        place = f"{module.class_name}.{method_name}"
        if depth > _MAX_CALL_DEPTH:
            raise ValueError(f"{place}: calls are nested too deeply")
        method = self._method(module.class_name, method_name)
        parameters = [argument.arg for argument in method.args.args]
        if len(parameters) != len(arguments) + 1:
            raise ValueError(f"{place} takes {len(parameters) - 1} arguments, not {len(arguments)}")
        scope: dict[str, Any] = dict(zip(parameters, [module, *arguments], strict=True))
        for statement in method.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=expression):
                    scope[name] = self._evaluate(expression, scope, depth)
                case ast.Return(value=ast.expr() as expression):
                    return self._evaluate(expression, scope, depth)
                case _:
                    raise ValueError(f"{place}: unexpected statement {ast.unparse(statement)!r}")
        raise ValueError(f"{place} returns nothing")

    def _method(self, class_name: str, method_name: str) -> ast.FunctionDef:
        """Syntax tree of a method; each class is parsed once."""
        if (class_name, method_name) not in self._methods:
            module_name, _, local_name = class_name.rpartition(".")
            try:
                tree = ast.parse(self.sources[module_name])
            except (KeyError, SyntaxError, ValueError) as error:
                raise ValueError(f"no readable code for {class_name}: {error}") from error
            for statement in tree.body:
                if isinstance(statement, ast.ClassDef) and statement.name == local_name:
                    for member in statement.body:
                        if isinstance(member, ast.FunctionDef):
                            self._methods[class_name, member.name] = member
        try:
            return self._methods[class_name, method_name]
        except KeyError:
            raise ValueError(f"{class_name} has no method {method_name}") from None

    def _evaluate(self, expression: ast.expr, scope: Mapping[str, Any], depth: int) -> Any:
        """Value of *expression*: a tensor, a module, a parameter, or a literal."""
        match expression:
            case ast.Constant(value=value):
                return value
            case ast.List(elts=elements):
                return [self._evaluate(element, scope, depth) for element in elements]
            case ast.Name(id=name) if name in scope:
                return scope[name]
            case ast.Attribute(value=owner, attr=name):
                return _attribute(self._evaluate(owner, scope, depth), name)
            case ast.Call(func=ast.Name(id="getattr"), args=[owner, ast.Constant(value=str(name))]):
                return _attribute(self._evaluate(owner, scope, depth), name)
            case ast.Call(func=ast.Attribute(value=ast.Name("torch"), attr=name), args=operands, keywords=[]):
                if name not in _OPERATORS:
                    raise ValueError(f"operator torch.{name} is not one of this architecture")
                values = [self._evaluate(operand, scope, depth) for operand in operands]
                try:
                    return _OPERATORS[name](self, *values)
                except (TypeError, AttributeError, LookupError) as error:
                    raise ValueError(f"{ast.unparse(expression)!r}: {error}") from error
            case ast.Call(func=ast.Attribute(value=owner, attr=name), args=arguments, keywords=[]):
                module = self._evaluate(owner, scope, depth)
                if isinstance(module, _Module):
                    values = [self._evaluate(argument, scope, depth) for argument in arguments]
                    return self.call(module, name, values, depth + 1)
        raise ValueError(f"expression {ast.unparse(expression)!r} is not one of this architecture")

    def add_node(self, operator: str, inputs: Sequence[str], channels: int, **attributes: Any) -> _Tensor:
        """Append a node with one output of *channels* channels, named after its place in the graph."""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return _Tensor(name, channels)

    def add_initializer(self, name: str, values: NDArray[np.float32]) -> str:
        """Add the constant *values*; a name stands for the same values at each use."""
        self.initializers.setdefault(name, values)
        return name


def _attribute(owner: Any, name: str) -> Any:
    if not isinstance(owner, _Module) or name not in owner.attributes:
        raise ValueError(f"no attribute {name!r} where the code reads one")
    return owner.attributes[name]


# --- the operators: positional signatures of PyTorch's own, as TorchScript writes them ----------------------


def _convolution(
    tracer: _Tracer, x: _Tensor, weight: _Parameter, bias: _Parameter | None,
    stride: list[int], padding: list[int], dilation: list[int],
    transposed: bool, output_padding: list[int], groups: int, *_flags: bool,
) -> _Tensor:  # fmt: skip
    """Conv or ConvTranspose; kernels have ONNX's axes: [Co, Ci, D, H, W], transposed [Ci, Co, D, H, W]."""
    if groups != 1:
        raise ValueError("grouped convolutions are not part of this architecture")
    inputs = [x.name, tracer.add_initializer(weight.path, weight.values)]
    if bias is not None:
        inputs.append(tracer.add_initializer(bias.path, bias.values))
    attributes: dict[str, Any] = {
        "kernel_shape": list(weight.values.shape[2:]),
        "strides": stride,
        "pads": padding * 2,
        "dilations": dilation,
    }
    if transposed:
        channels = weight.values.shape[1]
        return tracer.add_node("ConvTranspose", inputs, channels, output_padding=output_padding, **attributes)
    return tracer.add_node("Conv", inputs, weight.values.shape[0], **attributes)


def _instance_norm(
    tracer: _Tracer, x: _Tensor, weight: None, bias: None, running_mean: None, running_var: None,
    use_input_stats: bool, _momentum: float, epsilon: float, _cudnn_enabled: bool,
) -> _Tensor:  # fmt: skip
    """InstanceNormalization; ONNX wants the unit scale and the zero offset spelled out."""
    if not use_input_stats or any(value is not None for value in (weight, bias, running_mean, running_var)):
        raise ValueError("instance normalisation with affine parameters or stored statistics")
    scale = tracer.add_initializer(f"ones_{x.channels}", np.ones(x.channels, np.float32))
    offset = tracer.add_initializer(f"zeros_{x.channels}", np.zeros(x.channels, np.float32))
    return tracer.add_node("InstanceNormalization", [x.name, scale, offset], x.channels, epsilon=epsilon)


def _max_pool3d(
    tracer: _Tracer, x: _Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> _Tensor:
    attributes = {"kernel_shape": kernel, "strides": stride, "pads": padding * 2, "dilations": dilation}
    return tracer.add_node("MaxPool", [x.name], x.channels, **attributes)


def _relu_(tracer: _Tracer, x: _Tensor) -> _Tensor:
    x.name = tracer.add_node("Relu", [x.name], x.channels).name
    return x


def _add(tracer: _Tracer, x: _Tensor, y: _Tensor) -> _Tensor:
    if x.channels != y.channels:
        raise ValueError(f"addition of {x.channels} and {y.channels} channels")
    return tracer.add_node("Add", [x.name, y.name], x.channels)


def _add_(tracer: _Tracer, x: _Tensor, y: _Tensor) -> _Tensor:
    x.name = _add(tracer, x, y).name
    return x


def _softmax(tracer: _Tracer, x: _Tensor, axis: int) -> _Tensor:
    """Second class of a softmax over two: ``e^b / (e^a + e^b) = sigmoid(b - a)``.

    *a* and *b* are outputs of one linear layer, so ``b - a`` is that layer with the difference of its two
    kernels: equal but for float32 rounding, with half the work and half the memory on the largest grid.
    """
    layer = tracer.nodes[-1]
    is_linear = layer.output[0] == x.name and layer.op_type in ("Conv", "ConvTranspose")
    if axis != 1 or x.channels != 2 or not is_linear:
        raise ValueError("the softmax is not over two classes that a convolution computes")
    for position, name in enumerate(layer.input[1:], start=1):
        values = tracer.initializers.pop(name)
        class_axis = 1 if layer.op_type == "ConvTranspose" and values.ndim > 1 else 0
        layer.input[position] = f"{name}.difference"
        tracer.initializers[layer.input[position]] = np.diff(values, axis=class_axis)
    return tracer.add_node("Sigmoid", [x.name], 1)


_OPERATORS: dict[str, Callable[..., _Tensor]] = {
    "_convolution": _convolution,
    "instance_norm": _instance_norm,
    "max_pool3d": _max_pool3d,
    "relu_": _relu_,
    "add": _add,
    "add_": _add_,
    "softmax": _softmax,
}
