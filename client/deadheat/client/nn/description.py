"""What a network is made of, as a list of plain dictionaries, and back with its parameters.

>>> from deadheat.client.nn.sequential import MLP
>>> described(MLP([4, 2], seed=1))
[{'layer': 'linear', 'inputs': 4, 'outputs': 2, 'bias': True}]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from deadheat.client.arrays import Array
from deadheat.client.nn.images import Conv2d, Layer
from deadheat.client.nn.layers import Linear, Weighted
from deadheat.client.nn.sequential import Sequential
from deadheat.client.nn.words import Stored, listed, word
from deadheat.runtime.errors import InvalidInput

Description = Sequence[Mapping[str, Any]]
#: What a description says of a layer with parameters besides its word.
_SIZES: Final = ("inputs", "outputs", "bias")


def described(network: Sequential) -> list[dict[str, Any]]:
    """Its layers; `rebuilt` makes a network of them."""
    return [_of(layer) for layer in network]


def _of(layer: Layer) -> dict[str, Any]:
    said = word(layer)
    found: dict[str, Any] = {"layer": said} if isinstance(said, str) else dict(said)
    if isinstance(layer, Linear):
        found |= {"inputs": layer.inputs, "outputs": layer.outputs}
    elif isinstance(layer, Conv2d):
        outputs, inputs = layer.weight.shape[:2]
        found |= {"inputs": inputs, "outputs": outputs}
    if isinstance(layer, Weighted):
        found["bias"] = layer.bias is not None
    return found


def rebuilt(layers: Description, parameters: Sequence[Array]) -> Sequential:
    """The network of these layers, with parameters in the order of `Sequential.parameters`.

    Raises InvalidInput where they do not fit, or for a layer of a newer deadheat.
    """
    left = iter(parameters)
    numbered = enumerate(layers)
    stored = {number: _stored(number, one, left) for number, one in numbered if "bias" in one}
    if (more := len(list(left))) > 0:
        raise InvalidInput(f"{more} parameters belong to no layer")
    words = [{key: value for key, value in one.items() if key not in _SIZES} for one in layers]
    return listed(words, stored)


def _stored(number: int, layer: Mapping[str, Any], left: Iterator[Array]) -> Stored:
    try:
        weight = next(left)
        bias = {"bias": next(left)} if layer["bias"] else {}
    except StopIteration:
        raise InvalidInput(f"layer {number} has no parameters") from None
    sizes = (layer.get("inputs"), layer.get("outputs"))
    is_linear = layer.get("layer") == "linear"
    found = weight.shape[:2] if is_linear else weight.shape[1::-1]
    if found != sizes:
        raise InvalidInput(
            f"layer {number} is {sizes[0]} x {sizes[1]}, but its weight has shape {weight.shape}"
        )
    return {"weight": weight.T if is_linear else weight, **bias}
