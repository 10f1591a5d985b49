"""Graphs that are plain chains of layers, as `Sequential`s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from deadheat.client.arrays import Array
from deadheat.client.nn.graphs import Graph, GraphNode
from deadheat.client.nn.images import AvgPool2d, Conv2d, Layer, MaxPool2d
from deadheat.client.nn.layers import Activation, ActivationName, Flatten, Linear
from deadheat.client.nn.sequential import Sequential
from deadheat.runtime.errors import InvalidInput

_ACTIVATIONS: Final[Mapping[str, ActivationName]] = {
    "Relu": "relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
}


def as_sequential(graph: Graph) -> Sequential | None:
    """The same network as layers; None where it is no chain of such, with constant parameters."""
    constants = dict(graph.constants)
    layers: list[Layer] = []
    #: Where rows of so many columns are made by reshaping: a Linear layer has to take them.
    reshaped: list[tuple[int, int]] = []
    at = graph.input
    for node in graph.nodes:
        computed = [name for name in node.inputs if name not in constants]
        if node.kind == "Transpose" and not computed:
            constants[node.output] = np.transpose(constants[node.inputs[0]], node.options["perm"])
            continue
        # Each reads what the one before has made, in the place of the samples.
        if computed != [at] or (node.inputs[0] != at and node.kind != "Add"):
            return None
        given = [constants[name] for name in node.inputs if name != at]
        if node.kind == "Reshape":
            target = [int(one) for one in given[0]]
            if len(target) != 2 or target[0] not in (-1, 0, graph.taken[0]) or target == [-1, -1]:
                return None
            layers.append(Flatten())
            if target[1] != -1:
                reshaped.append((len(layers), target[1]))
        elif not _append(layers, node, given):
            return None
        at = node.output
    if at != graph.output or not all(_takes(layers[n:], columns) for n, columns in reshaped):
        return None
    try:
        return Sequential(*layers)
    except InvalidInput:
        return None  # As a graph it is said where it does not fit, by the node's name.


def _takes(layers: Sequence[Layer], columns: int) -> bool:
    rest = (layer for layer in layers if not isinstance(layer, Activation | Flatten))
    first = next(rest, None)
    return isinstance(first, Linear) and first.inputs == columns


def _append(layers: list[Layer], node: GraphNode, given: list[Array]) -> bool:
    """Adds a node to the layers before it; False where it is none."""
    options = node.options
    match node.kind:
        case "Identity":
            pass
        case "Relu" | "Tanh" | "Sigmoid":
            layers.append(Activation(_ACTIVATIONS[node.kind]))
        case "Gelu":
            layers.append(Activation("gelu_tanh" if options["approximate"] == "tanh" else "gelu"))
        case "Softmax":
            layers.append(Activation("softmax"))
            return options["axis"] in (-1, 1)
        case "Flatten":
            layers.append(Flatten())
            return bool(options["axis"] == 1)
        case "MatMul" if given[0].ndim == 2:
            layers.append(Linear.of(given[0], name=node.label))
        case "Add":
            return _add(layers, given[0], node.label)
        case "Gemm":
            return _gemm(layers, node, given)
        case "Conv" if given[0].ndim == 4:
            bias = given[1] if len(given) > 1 else None
            layers.append(Conv2d.of(given[0], bias, name=node.label, **_sizes(options)))
        case "MaxPool" | "AveragePool":
            made = MaxPool2d if node.kind == "MaxPool" else AvgPool2d
            layers.append(made(options["kernel"], **_sizes(options)))
        case _:
            return False
    return True


def _sizes(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"stride": options["stride"], "padding": options["padding"]}


def _add(layers: list[Layer], bias: Array, label: str) -> bool:
    """A bias behind a product that has none."""
    before = layers[-1] if layers else None
    if not isinstance(before, Linear) or before.bias is not None:
        return False
    if bias.size != before.outputs or bias.shape[-1:] != (before.outputs,) or bias.ndim > 2:
        return False
    layers[-1] = Linear.of(before.weight, bias.reshape(-1), name=label)
    return True


def _gemm(layers: list[Layer], node: GraphNode, given: list[Array]) -> bool:
    options, bias = node.options, given[1] if len(given) > 1 else None
    is_plain = options["alpha"] == 1 and options["beta"] == 1 and not options["transA"]
    if not is_plain or given[0].ndim != 2:
        return False
    weight = given[0].T if options["transB"] else given[0]
    if bias is not None and (bias.size != weight.shape[1] or bias.shape[-1:] != (bias.size,)):
        return False
    bias = None if bias is None else bias.reshape(-1)
    layers.append(Linear.of(weight, bias, name=node.label))
    return True
