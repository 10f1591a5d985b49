"""A network under training as one matrix, and as what an epoch of it is to the devices.

Rules of this file: what a state is says `runtime.descents`; there a convolution's weight lies as a
dense layer's does, transposed. Networks of images begin with Unflatten (`Sequential.for_images`)
where sizes are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import numpy as np

from deadheat.client.arrays import Array
from deadheat.client.nn.descent import Rule
from deadheat.client.nn.images import Conv2d, Image, Layer, Pooling, Unflatten
from deadheat.client.nn.layers import Activation, Flatten, Linear, Weighted
from deadheat.client.nn.losses import Epoch, LossName
from deadheat.client.nn.sequential import Sequential
from deadheat.client.nn.shapes import Shape, after
from deadheat.runtime import descents, windows
from deadheat.runtime.errors import InvalidInput, LimitReached
from deadheat.runtime.operations import (
    Convolution,
    Dense,
    Descent,
    LayerFunction,
    Loss,
    TrainedLayer,
)
from deadheat.runtime.units import format_bytes

#: Orders of all epochs are drawn before the first, so that they are the same after any restart.
MAX_ORDER_BYTES: Final = 1 << 30


def descent_of(
    network: Sequential, loss: LossName, rule: Rule, *, epochs: int, batch_size: int
) -> Descent:
    """The first epoch of a training."""
    layers: list[TrainedLayer] = []
    shape: Shape = (network.inputs,)
    for number, layer in enumerate(network):
        layers += _trained(layer, shape)
        shape = after(layer, shape, network.name(number))
    return Descent(
        tuple(layers), Loss(loss), batch_size, rule.rate, rule.momentum, epoch=0, epochs=epochs
    )


def _trained(layer: Layer, shape: Shape) -> Sequence[TrainedLayer]:
    """What a layer is to the devices, for samples of this shape: none where rows stay as they
    are."""
    match layer:
        case Linear():
            return [Dense(layer.inputs, layer.outputs, layer.bias is not None)]
        case Conv2d():
            window = layer.window(_image(shape))
            return [Convolution(window, layer.out_channels, layer.bias is not None)]
        case Pooling():
            return [windows.Pooling(layer.window(_image(shape)), layer.function)]
        case Activation(name="none") | Flatten() | Unflatten():
            return []
        case Activation(name=name):
            return [LayerFunction(name)]


def _image(shape: Shape) -> Image:
    channels, height, width = shape
    return channels, height, width


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
    found: list[Array] = []
    for layer in network.weighted:
        weight = layer.weight
        if isinstance(layer, Conv2d):
            weight = weight.reshape(layer.out_channels, -1).T
        found += [weight.ravel()] if layer.bias is None else [weight.ravel(), layer.bias]
    np.concatenate(found, out=state[0, : descents.parameters(kind)])
    return state


def size_of(network: Sequential) -> int:
    return sum(array.size for array in network.parameters)


def unpacked(network: Sequential, state: Array) -> Sequence[Array]:
    """A state's parameters, as arrays of their own, in the order of `network.parameters`. Raises
    InvalidInput for a state of another network."""
    stops = list(accumulate(array.size for array in network.parameters))
    if state.dtype != network.dtype or state.shape[1] < stops[-1]:
        raise InvalidInput(
            f"the state is {state.shape[1]} columns of {state.dtype}; the network has {stops[-1]} "
            f"parameters of {network.dtype}",
            field="network",
        )
    left = iter(np.split(state[0, : stops[-1]], stops[:-1]))
    found: list[Array] = []
    for layer in network.weighted:
        found.append(_weight(layer, next(left)))
        if layer.bias is not None:
            found.append(np.array(next(left)))
    return found


def _weight(layer: Weighted, flat: Array) -> Array:
    """A layer's weight as a state has it, in the layer's own shape."""
    if isinstance(layer, Conv2d):
        flat = flat.reshape(-1, layer.out_channels).T
    return np.array(flat, order="C").reshape(layer.weight.shape)


def epochs_of(network: Sequential, state: Array) -> Sequence[Epoch]:
    """What was measured of the epochs that the state has behind it."""
    return [
        Epoch(number, loss, seconds, int(steps), waiting, spread)
        for number, (loss, seconds, steps, waiting, spread) in enumerate(
            descents.records(size_of(network), state), 1
        )
        if steps
    ]
