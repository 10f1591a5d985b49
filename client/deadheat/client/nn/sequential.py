"""`Sequential` and `MLP`: layers one after the other, checked as they are put together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from deadheat.client.arrays import Array
from deadheat.client.choices import choice
from deadheat.client.nn.layers import (
    ACTIVATIONS,
    Activation,
    ActivationName,
    Flatten,
    Layer,
    Linear,
    Seed,
    generator,
    size,
)
from deadheat.client.nn.parameters import float_name
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import MAX_OPERATIONS

#: Each layer is one operation or less, and the end of a network may have a few more.
MAX_LAYERS: Final = MAX_OPERATIONS // 2


class Sequential:
    """A network of `Linear`, `Activation` and `Flatten`, in this order.

    An activation may be given by its name: `Sequential(Linear(784, 10), "relu")`.

    Raises:
        InvalidInput: There is no Linear layer, widths do not chain, or dtypes differ; it names
            the layers by number (from 0) and size.

    """

    def __init__(self, *layers: Layer | str) -> None:
        self.layers: tuple[Layer, ...] = tuple(
            _layer(layer, number) for number, layer in enumerate(layers)
        )
        if len(self.layers) > MAX_LAYERS:
            raise InvalidInput(f"there are {len(self.layers)} layers; the limit is {MAX_LAYERS}")
        linear = [
            (number, layer) for number, layer in enumerate(self.layers) if isinstance(layer, Linear)
        ]
        if not linear:
            raise InvalidInput("a network needs a Linear layer at least", field="layers")
        for (before, first), (number, second) in pairwise(linear):
            if first.outputs != second.inputs:
                raise InvalidInput(
                    f"layer {number} ({second!r}) takes {second.inputs} columns, but layer "
                    f"{before} ({first!r}) makes {first.outputs}",
                    field="layers",
                )
            if first.dtype != second.dtype:
                raise InvalidInput(
                    f"layer {number} ({second!r}) is {second.dtype}, but layer {before} "
                    f"({first!r}) is {first.dtype}; a network has one dtype",
                    field="layers",
                )
        self._linear = tuple(layer for _, layer in linear)

    @property
    def linear(self) -> tuple[Linear, ...]:
        """The layers that have parameters."""
        return self._linear

    @property
    def inputs(self) -> int:
        return self._linear[0].inputs

    @property
    def outputs(self) -> int:
        return self._linear[-1].outputs

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._linear[0].dtype

    @property
    def parameters(self) -> tuple[Array, ...]:
        """All weights and biases, layer by layer."""
        each = ((layer.weight, layer.bias) for layer in self._linear)
        return tuple(array for pair in each for array in pair if array is not None)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __getitem__(self, number: int) -> Layer:
        return self.layers[number]

    def __repr__(self) -> str:
        layers = ", ".join(repr(layer) for layer in self.layers)
        return f"<{type(self).__name__} {layers}, {self.dtype}>"


class MLP(Sequential):
    """A multilayer perceptron: Linear layers with activations behind them.

    Args:
        layers: Sizes, from the samples' columns to the result's ([784, 256, 10]), or parameters:
            for each layer a weight of inputs x outputs, or a pair of weight and bias. Paths of
            `.npy` files will do.
        activations: One name for all layers but the last, which has none; or a name for each layer
            (the last may be left out): none, relu, gelu, gelu_tanh, tanh, sigmoid, softmax.
        dtype: float16, bfloat16, float32 (if sizes are given, the default) or float64. Parameters
            must be of one dtype, and of this one if it is given.
        seed: Of the weights, if sizes are given.

    Raises:
        InvalidInput: Shapes do not chain, dtypes differ, a parameter has NaN or infinity, or there
            are more or fewer activations than layers; it names layer and value.

    """

    def __init__(
        self,
        layers: Iterable[Any],
        activations: str | Sequence[str] = "relu",
        *,
        dtype: Any = None,
        seed: Seed = None,
    ) -> None:
        if isinstance(layers, (str, np.ndarray)):
            raise InvalidInput(f"layers is a {type(layers).__name__}; it must be a list of them")
        given = list(layers)
        if all(isinstance(one, (int, np.integer)) for one in given):
            linear = _drawn(given, "float32" if dtype is None else dtype, seed)
        elif seed is not None:
            raise InvalidInput("seed is for sizes, but parameters are given", field="seed")
        else:
            # Layers are called by their numbers among all layers, as Sequential counts them.
            names = _names(activations, len(given))
            hidden = [name != "none" for name in names]
            numbers = [number + sum(hidden[:number]) for number in range(len(given))]
            linear = [_given(one, number) for number, one in zip(numbers, given)]
            if dtype is not None:
                _check_dtype(numbers, linear, dtype)
        super().__init__(*_alternating(linear, _names(activations, len(linear))))


def _layer(layer: Layer | str, number: int) -> Layer:
    if isinstance(layer, str):
        if layer not in ACTIVATIONS:
            raise InvalidInput(
                f"layer {number} is {layer!r}; an activation may be {', '.join(ACTIVATIONS)}",
                field="layers",
            )
        return Activation(ACTIVATIONS[layer])
    if not isinstance(layer, (Linear, Activation, Flatten)):
        raise InvalidInput(
            f"layer {number} is a {type(layer).__name__}; it may be Linear, Activation, Flatten "
            "or the name of an activation",
            field="layers",
        )
    return layer


def _drawn(sizes: Sequence[Any], dtype: Any, seed: Seed) -> list[Linear]:
    if len(sizes) < 2:
        raise InvalidInput(
            f"layers has {len(sizes)} sizes; it takes two at least, of samples and result",
            field="layers",
        )
    numbers = [size(one, f"layers[{number}]") for number, one in enumerate(sizes)]
    source = generator(seed)
    return [Linear(a, b, dtype=dtype, seed=source) for a, b in pairwise(numbers)]


def _given(one: Any, number: int) -> Linear:
    """A layer of a weight, or of a pair of weight and bias (a list of two rows is a weight)."""
    is_pair = isinstance(one, (tuple, list)) and len(one) == 2
    if is_pair and not isinstance(one, tuple):
        is_pair = isinstance(one[0], (str, Path)) or getattr(one[0], "ndim", 0) == 2
    weight, bias = one if is_pair else (one, None)
    return Linear.of(weight, bias, name=f"layer {number}")


def _check_dtype(numbers: Sequence[int], linear: Sequence[Linear], dtype: Any) -> None:
    wanted = float_name(dtype, "dtype")
    for number, layer in zip(numbers, linear):
        if layer.dtype.name != wanted:
            raise InvalidInput(
                f"layer {number} ({layer!r}) is {layer.dtype}, but dtype is {wanted}", field="dtype"
            )


def _names(activations: str | Sequence[str], count: int) -> list[ActivationName]:
    """A name for each layer; the last may be left out."""
    if isinstance(activations, str):
        return [choice(activations, "activation", ACTIVATIONS)] * (count - 1)
    names = [choice(name, "activation", ACTIVATIONS) for name in activations]
    if len(names) not in (count, count - 1):
        raise InvalidInput(
            f"activations has {len(names)} names; there are {count} layers", field="activations"
        )
    return names


def _alternating(linear: Sequence[Linear], names: Sequence[ActivationName]) -> list[Layer]:
    made: list[Layer] = []
    for number, layer in enumerate(linear):
        made.append(layer)
        name = names[number] if number < len(names) else "none"
        if name != "none":
            made.append(Activation(name))
    return made
