"""Layers as a file's header lists them, and the parameters that belong to each.

Rules of this file: what came from a file is checked, and said by the number of the layer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, assert_never

from deadheat.client.arrays import Array
from deadheat.client.nn.images import (
    AvgPool2d,
    Conv2d,
    Layer,
    MaxPool2d,
    Pooling,
    Unflatten,
)
from deadheat.client.nn.layers import Activation, Flatten, Linear
from deadheat.client.nn.sequential import Sequential
from deadheat.runtime.errors import InvalidInput

#: Parameters of a layer by their names, as they are stored: a Linear's weight is outputs x inputs.
Stored = Mapping[str, Array]
Word = str | dict[str, Any]


def word(layer: Layer) -> Word:
    """What a header says of a layer: its name, and what its parameters do not say."""
    match layer:
        case Activation():
            return layer.name
        case Linear() | Flatten():
            return type(layer).__name__.lower()
        case Conv2d():
            return {"layer": "conv2d", "stride": layer.stride, "padding": layer.padding}
        case Pooling():
            sizes = {"stride": layer.stride, "padding": layer.padding}
            return {"layer": type(layer).__name__.lower(), "kernel": layer.kernel_size, **sizes}
        case Unflatten():
            return {"layer": "unflatten", "image": layer.image}
        case other:
            assert_never(other)


def listed(text: str, stored: Mapping[int, Stored]) -> Sequential:
    """The network that a header lists; raises InvalidInput where parameters do not fit it."""
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(one, str | dict) for one in words):
        raise InvalidInput("deadheat.layers in the header is no list of names")
    names = [one if isinstance(one, str) else str(one.get("layer")) for one in words]
    needed = {number for number, name in enumerate(names) if name in ("linear", "conv2d")}
    if needed != set(stored):
        raise InvalidInput(
            f"the header lists layers with parameters {sorted(needed)}, but there are parameters "
            f"of {sorted(stored)}"
        )
    layers: list[Layer | str] = []
    for number, (name, one) in enumerate(zip(names, words, strict=True)):
        sizes = {} if isinstance(one, str) else {k: v for k, v in one.items() if k != "layer"}
        layers.append(_layer(number, name, sizes, stored.get(number, {})))
    return Sequential(*layers)


def _layer(number: int, name: str, sizes: dict[str, Any], stored: Stored) -> Layer | str:
    label = f"layer {number}"
    try:
        match name:
            case "linear":
                return Linear.of(stored["weight"].T, stored.get("bias"), name=label)
            case "conv2d":
                return Conv2d.of(stored["weight"], stored.get("bias"), name=label, **sizes)
            case "flatten":
                return Flatten()
            case "maxpool2d" | "avgpool2d":
                made = MaxPool2d if name == "maxpool2d" else AvgPool2d
                return made(sizes["kernel"], sizes["stride"], sizes["padding"])
            case "unflatten":
                return Unflatten(1, sizes["image"])
            case _:
                return name  # An activation's, or none that the network knows.
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            f"{label} ({name}) is described wrongly in the header: {error}"
        ) from None


def alike(like: Sequential, stored: Mapping[int, Stored]) -> Sequential:
    """A network of the same layers with other parameters, by their numbers; raises InvalidInput
    where there are more or fewer, or of other shapes."""
    needed = {
        number: layer for number, layer in enumerate(like) if isinstance(layer, Linear | Conv2d)
    }
    if set(needed) != set(stored):
        raise InvalidInput(
            f"like has parameters in layers {sorted(needed)}, but the file in {sorted(stored)}",
            field="like",
        )
    layers = list(like.layers)
    for number, layer in needed.items():
        given, label = stored[number], f"layer {number}"
        made: Linear | Conv2d
        if isinstance(layer, Linear):
            made = Linear.of(given["weight"].T, given.get("bias"), name=label)
        else:
            sizes = {"stride": layer.stride, "padding": layer.padding}
            made = Conv2d.of(given["weight"], given.get("bias"), name=label, **sizes)
        if repr(made) != repr(layer) or (made.bias is None) != (layer.bias is None):
            raise InvalidInput(
                f"{label} in the file is {_told(made)}, but in like it is {_told(layer)}",
                field="like",
            )
        layers[number] = made
    return Sequential(*layers)


def _told(layer: Linear | Conv2d) -> str:
    return f"{layer!r} with{'out' if layer.bias is None else ''} bias"


def linear(stored: Mapping[int, Stored]) -> list[tuple[Array, Array | None]]:
    """Weights and biases of Linear layers one after the other; raises InvalidInput for others."""
    pairs: list[tuple[Array, Array | None]] = []
    for number, one in stored.items():
        if one["weight"].ndim == 4:
            raise InvalidInput(
                f"layer {number} is a convolution, and the file does not say its stride, nor what "
                "is between: give like=, a network of the same layers",
                field="like",
            )
        layer = Linear.of(one["weight"].T, one.get("bias"), name=f"layer {number}")
        pairs.append((layer.weight, layer.bias))
    return pairs
