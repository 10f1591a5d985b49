"""What a network is made of, as a list of plain dictionaries, and back with its parameters.

>>> from deadheat.client.nn.sequential import MLP
>>> described(MLP([4, 2], seed=1))
[{'layer': 'linear', 'inputs': 4, 'outputs': 2, 'bias': True}]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, assert_never

from deadheat.client.arrays import Array
from deadheat.client.nn.layers import Activation, Flatten, Layer, Linear
from deadheat.client.nn.sequential import Sequential
from deadheat.runtime.errors import InvalidInput

Description = Sequence[Mapping[str, Any]]


def described(network: Sequential) -> list[dict[str, Any]]:
    """Its layers; `rebuilt` makes a network of them."""
    return [_of(layer) for layer in network]


def _of(layer: Layer) -> dict[str, Any]:
    match layer:
        case Linear(inputs=inputs, outputs=outputs, bias=bias):
            return {
                "layer": "linear",
                "inputs": inputs,
                "outputs": outputs,
                "bias": bias is not None,
            }
        case Activation(name=name):
            return {"layer": str(name)}
        case Flatten():
            return {"layer": "flatten"}
        case other:
            assert_never(other)


def rebuilt(layers: Description, parameters: Sequence[Array]) -> Sequential:
    """The network of these layers, with parameters in the order of `Sequential.parameters`.

    Raises InvalidInput where they do not fit, or for a layer of a newer deadheat.
    """
    left = iter(parameters)
    made = [_layer(number, one, left) for number, one in enumerate(layers)]
    if (more := len(list(left))) > 0:
        raise InvalidInput(f"{more} parameters belong to no layer")
    return Sequential(*made)


def _layer(number: int, described: Mapping[str, Any], left: Iterator[Array]) -> Layer | str:
    match described:
        case {"layer": "linear", "inputs": inputs, "outputs": outputs, "bias": has_bias}:
            try:
                weight, bias = next(left), next(left) if has_bias else None
            except StopIteration:
                raise InvalidInput(f"layer {number} has no parameters") from None
            if weight.shape != (inputs, outputs):
                raise InvalidInput(
                    f"layer {number} is {inputs} x {outputs}, but its weight has shape "
                    f"{weight.shape}"
                )
            return Linear.of(weight, bias, name=f"layer {number}")
        case {"layer": "flatten"}:
            return Flatten()
        case {"layer": str(name)}:
            return name
        case _:
            raise InvalidInput(f"layer {number} is {described!r}, which no deadheat wrote")
