"""What a layer is, in words that JSON can say, and the parameters that belong to each.

Rules of this file: what came from a file or a cluster is checked, and said by the number of the
layer. Parameters are stored as PyTorch does: a Linear's weight is outputs x inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from deadheat.client.nn.layers import Activation, Flatten, Linear, Weighted
from deadheat.client.nn.sequential import Sequential
from deadheat.runtime.errors import InvalidInput

#: Parameters of a layer by their names, as they are stored.
Stored = Mapping[str, Array]
Word = str | dict[str, Any]


def word(layer: Layer) -> Word:
    """Its name, and what its parameters do not say."""
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


def stored_of(layer: Weighted) -> Stored:
    weight = layer.weight.T if isinstance(layer, Linear) else layer.weight
    return {"weight": weight} if layer.bias is None else {"weight": weight, "bias": layer.bias}


def listed(words: Sequence[Word], stored: Mapping[int, Stored]) -> Sequential:
    """The network of these layers; raises InvalidInput where parameters do not fit it."""
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
                return _linear(stored, label)
            case "conv2d":
                return _conv2d(stored, label, sizes)
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


def _linear(stored: Stored, label: str) -> Linear:
    return Linear.of(stored["weight"].T, stored.get("bias"), name=label)


def _conv2d(stored: Stored, label: str, sizes: Mapping[str, Any]) -> Conv2d:
    return Conv2d.of(stored["weight"], stored.get("bias"), name=label, **sizes)


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
            made = _linear(given, label)
        else:
            made = _conv2d(given, label, {"stride": layer.stride, "padding": layer.padding})
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
        layer = _linear(one, f"layer {number}")
        pairs.append((layer.weight, layer.bias))
    return pairs
