"""A network under training as one matrix, and as what an epoch of it is to the devices.

Rules of this file: what a state is says `runtime.descents`; a network with a layer that epochs do
not know has none, and is trained step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

import numpy as np

from deadheat.client.arrays import Array
from deadheat.client.nn.descent import Rule
from deadheat.client.nn.layers import Activation, Flatten, Linear
from deadheat.client.nn.losses import Epoch, LossName
from deadheat.client.nn.sequential import Sequential
from deadheat.runtime import descents
from deadheat.runtime.errors import InvalidInput, LimitReached
from deadheat.runtime.programs import Dense, Descent, LayerFunction, Loss
from deadheat.runtime.units import format_bytes

#: Orders of all epochs are drawn before the first, so that they are the same after any restart.
MAX_ORDER_BYTES: Final = 1 << 30


def descent_of(
    network: Sequential, loss: LossName, rule: Rule, *, epochs: int, batch_size: int
) -> Descent | None:
    """The first epoch of a training; None for a network with layers that devices cannot train."""
    layers: list[Dense | LayerFunction] = []
    for layer in network:
        match layer:
            case Linear():
                layers.append(Dense(layer.inputs, layer.outputs, layer.bias is not None))
            case Activation(name="none") | Flatten():
                pass  # Samples come as rows.
            case Activation(name=name):
                layers.append(LayerFunction(name))
            case _:
                return None
    return Descent(
        tuple(layers), Loss(loss), batch_size, rule.rate, rule.momentum, epoch=0, epochs=epochs
    )


def orders(source: np.random.Generator, epochs: int, rows: int) -> Array:
    """A random order of all rows for each epoch; raises LimitReached for too many."""
    if epochs > descents.MAX_EPOCHS:
        raise InvalidInput(
            f"epochs is {epochs}; one training has at most {descents.MAX_EPOCHS}", field="epochs"
        )
    dtype = np.dtype(descents.ORDER_DTYPE)
    size_bytes = epochs * rows * dtype.itemsize
    if size_bytes > MAX_ORDER_BYTES:
        raise LimitReached(
            f"the orders of {rows} samples in {epochs} epochs take {format_bytes(size_bytes)}; the "
            f"limit is {format_bytes(MAX_ORDER_BYTES)}: train fewer epochs at a time"
        )
    made = np.empty((epochs, rows), dtype)
    for row in made:
        row[...] = source.permutation(rows)
    return made


def packed(network: Sequential, kind: Descent) -> Array:
    """The state before the first epoch."""
    matrix = descents.state_type(kind, network.dtype.name)
    state = np.zeros((matrix.rows, matrix.columns), network.dtype)
    np.concatenate(
        [array.ravel() for array in network.parameters], out=state[0, : descents.parameters(kind)]
    )
    return state


def size_of(network: Sequential) -> int:
    return sum(array.size for array in network.parameters)


def unpacked(network: Sequential, state: Array) -> Sequence[Array]:
    """A state's parameters, as arrays of their own, in the order of `network.parameters`. Raises
    InvalidInput for a state of another network."""
    shapes = [array.shape for array in network.parameters]
    stops = [0, *accumulate(array.size for array in network.parameters)]
    if state.dtype != network.dtype or state.shape[1] < stops[-1]:
        raise InvalidInput(
            f"the state is {state.shape[1]} columns of {state.dtype}; the network has {stops[-1]} "
            f"parameters of {network.dtype}",
            field="network",
        )
    row = state[0]
    return [
        np.array(row[start:stop]).reshape(shape)
        for shape, (start, stop) in zip(shapes, pairwise(stops), strict=True)
    ]


def epochs_of(network: Sequential, state: Array) -> Sequence[Epoch]:
    """What was measured of the epochs that the state has behind it."""
    return [
        Epoch(number, loss, seconds, int(steps), waiting, spread)
        for number, (loss, seconds, steps, waiting, spread) in enumerate(
            descents.records(size_of(network), state), 1
        )
        if steps
    ]
