"""Networks from ONNX files: their graphs are read, and none of it is run by anybody else.

Rules of this file: what is not known is refused by the node's name and kind, and so is each
attribute that would make something else of it. A plain chain of layers becomes a `Sequential`,
which can be trained and kept; anything else a `Graph`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from deadheat.client.arrays import Array
from deadheat.client.nn.graphs import Graph, GraphNode
from deadheat.client.nn.parameters import FLOATS, check_finite
from deadheat.client.nn.plain import as_sequential
from deadheat.client.nn.sequential import MAX_LAYERS, Sequential
from deadheat.runtime.errors import InvalidInput, NotFound, Unavailable

_WINDOW: Final = {
    "auto_pad": "NOTSET",
    "dilations": None,
    "kernel_shape": None,
    "pads": None,
    "strides": None,
}
#: Operations, and what their attributes are unless they are said.
KINDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "MatMul": {},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
    "Conv": {**_WINDOW, "group": 1},
    "MaxPool": {**_WINDOW, "ceil_mode": 0, "storage_order": 0},
    "AveragePool": {**_WINDOW, "ceil_mode": 0, "count_include_pad": 0},
    "Add": {},
    "Relu": {},
    "Tanh": {},
    "Sigmoid": {},
    "Gelu": {"approximate": "none"},
    "Softmax": {"axis": -1},
    "Transpose": {"perm": None},
    "Flatten": {"axis": 1},
    "Reshape": {"allowzero": 0},
    "Identity": {},
}


def from_onnx(path: str | Path) -> Sequential | Graph:
    """A network from an ONNX file.

    Its graph may have MatMul, Gemm, Conv (two dimensions, one group, no dilation), MaxPool,
    AveragePool, Add, Relu, Tanh, Sigmoid, Gelu, Softmax (along the last axis), Transpose, Flatten,
    Reshape that flattens, Identity, and constants.

    Returns:
        A `Sequential` where the graph is a chain of layers with constant parameters, else a
        `Graph`. Images go in as n x channels x height x width.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It is damaged, or has anything else in it; the message names file and node.
        Unavailable: The package onnx is missing.

    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise NotFound(f"{file}: there is no such file")
    try:
        onnx: Any = import_module("onnx")
    except ImportError:
        raise Unavailable("the package onnx is missing: pip install 'deadheat[onnx]'") from None
    try:
        graph = _graph(onnx, _read(onnx, file))
        return as_sequential(graph) or graph
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error.message}", field=error.field) from None


def _read(onnx: Any, file: Path) -> Any:
    try:
        model = onnx.load(file)
        onnx.checker.check_model(model)
    except Exception as error:  # noqa: BLE001 - protobuf, the checker and the disk have their own.
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"it is no ONNX file, or damaged: {first}") from None
    return model


def _graph(onnx: Any, model: Any) -> Graph:
    given = model.graph
    if len(given.node) > MAX_LAYERS:
        raise InvalidInput(f"there are {len(given.node)} nodes; the limit is {MAX_LAYERS}")
    constants = {
        one.name: _constant(onnx, one, f"initializer {one.name!r}") for one in given.initializer
    }
    nodes: list[GraphNode] = []
    for number, node in enumerate(given.node):
        label = f"node {node.name or number!r} ({node.op_type})"
        if node.domain not in ("", "ai.onnx"):
            raise InvalidInput(f"{label} is of domain {node.domain!r}", field=label)
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant_node(onnx, node, label)
        else:
            nodes.append(_node(onnx, node, label))
    inputs = [one for one in given.input if one.name not in constants]
    if len(inputs) != 1 or len(given.output) != 1:
        raise InvalidInput(
            f"there are {len(inputs)} inputs and {len(given.output)} outputs; a network has one of "
            "each"
        )
    taken = _dimensions(inputs[0])
    dtypes = {array.dtype.name for array in constants.values()} & set(FLOATS)
    if len(dtypes) != 1:
        named = ", ".join(sorted(dtypes)) or "none"
        raise InvalidInput(f"its constants are of {named}; a network has one dtype")
    _check_names(nodes, {*constants, inputs[0].name}, given.output[0].name)
    return Graph(
        nodes, constants, inputs[0].name, given.output[0].name, taken, _float(constants, dtypes)
    )


def _float(constants: Mapping[str, Array], dtypes: set[str]) -> np.dtype[Any]:
    return next(array.dtype for array in constants.values() if array.dtype.name in dtypes)


def _check_names(nodes: Sequence[GraphNode], known: set[str], output: str) -> None:
    for node in nodes:
        missing = [name for name in node.inputs if name not in known]
        if missing:
            raise InvalidInput(f"{node.label} reads {missing[0]!r}, which nothing makes before it")
        known.add(node.output)
    if output not in known:
        raise InvalidInput(f"nothing makes the output {output!r}")


def _constant(onnx: Any, tensor: Any, label: str) -> Array:
    try:
        array: Array = np.array(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(f"{label} cannot be read: {error}") from None
    if array.dtype.name in FLOATS:
        check_finite(array.reshape(-1), label)
    elif array.dtype.kind not in "iub":
        raise InvalidInput(f"{label} has dtype {array.dtype}; it may be {', '.join(FLOATS)}")
    array.flags.writeable = False
    return array


def _constant_node(onnx: Any, node: Any, label: str) -> Array:
    (attribute,) = node.attribute
    if attribute.name != "value":
        raise InvalidInput(f"{label} has {attribute.name}; it may have a value", field=label)
    return _constant(onnx, attribute.t, label)


def _dimensions(value: Any) -> tuple[int | None, ...]:
    dimensions = value.type.tensor_type.shape.dim
    taken = tuple(one.dim_value if one.HasField("dim_value") else None for one in dimensions)
    if len(taken) not in (2, 4):
        raise InvalidInput(
            f"input {value.name!r} has {len(taken)} dimensions; it may have 2 (rows) or 4 (images)"
        )
    return taken


def _node(onnx: Any, node: Any, label: str) -> GraphNode:
    if node.op_type not in KINDS:
        raise InvalidInput(f"{label} is not known; it may be {', '.join(KINDS)}", field=label)
    if sum(bool(name) for name in node.output) != 1 or not all(node.input):
        raise InvalidInput(f"{label} leaves out an input, or has several outputs", field=label)
    said = dict(KINDS[node.op_type])
    for attribute in node.attribute:
        if attribute.name not in said:
            raise InvalidInput(f"{label} has an unknown {attribute.name}", field=label)
        value = onnx.helper.get_attribute_value(attribute)
        said[attribute.name] = value.decode() if isinstance(value, bytes) else value
    options = _window(said, node.op_type, label) if "strides" in said else _plain(said, label)
    return GraphNode(label, node.op_type, tuple(node.input), node.output[0], options)


def _plain(said: Mapping[str, Any], label: str) -> Mapping[str, Any]:
    _check(said, label, {"allowzero": 0})
    if said.get("approximate", "none") not in ("none", "tanh"):
        raise InvalidInput(f"{label} has approximate {said['approximate']!r}; it may be none, tanh")
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in said.items()
    }


def _window(said: Mapping[str, Any], kind: str, label: str) -> Mapping[str, Any]:
    """Kernel, stride and padding, two numbers each."""
    _check(said, label, {"group": 1, "ceil_mode": 0, "storage_order": 0})
    if said["auto_pad"] not in ("NOTSET", "VALID"):
        raise InvalidInput(f"{label} has auto_pad {said['auto_pad']!r}; it must say its pads")
    kernel = said["kernel_shape"]
    if kernel is None and kind != "Conv":
        raise InvalidInput(f"{label} has no kernel_shape")
    pads = list(said["pads"] or (0, 0, 0, 0))
    found = {
        "kernel": None if kernel is None else tuple(kernel),
        "stride": tuple(said["strides"] or (1, 1)),
        "dilation": tuple(said["dilations"] or (1, 1)),
    }
    for name, value in found.items():
        if value is not None and len(value) != 2:
            raise InvalidInput(f"{label} has {name} {list(value)}; images have two dimensions")
    if found.pop("dilation") != (1, 1):
        raise InvalidInput(f"{label} has dilations {said['dilations']}; they may be 1")
    if len(pads) != 4 or pads[:2] != pads[2:]:
        raise InvalidInput(f"{label} has pads {pads}; they must be alike on opposite sides")
    if said.get("count_include_pad") == 0 and any(pads):
        raise InvalidInput(f"{label} has pads that do not count; count_include_pad must be 1")
    return {**found, "padding": (pads[0], pads[1])}


def _check(said: Mapping[str, Any], label: str, wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if said.get(name, value) != value:
            raise InvalidInput(f"{label} has {name} {said[name]!r}; it may be {value!r}")
