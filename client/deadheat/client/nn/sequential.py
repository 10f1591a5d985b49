"""`Sequential` and `MLP`: layers one after the other, checked as they are put together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from deadheat.client.arrays import Array
from deadheat.client.choices import choice
from deadheat.client.nn.images import Conv2d, Image, Layer, Pooling, Unflatten
from deadheat.client.nn.layers import (
    ACTIVATIONS,
    Activation,
    ActivationName,
    Flatten,
    Linear,
    Seed,
    Weighted,
    generator,
    size,
)
from deadheat.client.nn.parameters import float_name
from deadheat.client.nn.shapes import Shape, after, check_order, first_shape, takes_images
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import MAX_OPERATIONS

#: Each layer is one operation or less, and the end of a network may have a few more.
MAX_LAYERS: Final = MAX_OPERATIONS // 2


class Sequential:
    """Layers one after the other: `Linear`, `Conv2d`, `MaxPool2d`, `AvgPool2d`, activations,
    `Flatten` and `Unflatten`.

    An activation may be given by its name: `Sequential(Linear(784, 10), "relu")`.

    Raises:
        InvalidInput: There is no Linear or Conv2d layer, widths or channels do not chain, or dtypes
            differ; it names the layers by number (from 0) and size. Heights and widths of images
            are checked here if the network begins with Unflatten, else when it gets its samples.

    """

    #: The number of the first layer, as errors count.
    _first_number = 0

    def __init__(self, *layers: Layer | str) -> None:
        self.layers: tuple[Layer, ...] = tuple(
            _layer(layer, number) for number, layer in enumerate(layers)
        )
        if len(self.layers) > MAX_LAYERS:
            raise InvalidInput(f"there are {len(self.layers)} layers; the limit is {MAX_LAYERS}")
        self._check_chain()
        check_order(self.layers, self.name)
        self._taken = first_shape(self.layers)
        self._made: Shape | None = None
        if self._taken is not None:
            self._made = self._taken
            for number, layer in enumerate(self.layers):
                self._made = after(layer, self._made, self.name(number))

    def _check_chain(self) -> None:
        """Raises InvalidInput for parameters that do not fit one another."""
        numbers = [n for n, layer in enumerate(self.layers) if isinstance(layer, Weighted)]
        self._weighted = tuple(layer for layer in self.layers if isinstance(layer, Weighted))
        if not numbers:
            raise InvalidInput(
                "a network needs a Linear layer, or a Conv2d, at least", field="layers"
            )
        for before, number in pairwise(numbers):
            first, second = self.layers[before], self.layers[number]
            between = self.layers[before:number]
            is_reshaped = any(isinstance(layer, Pooling | Unflatten) for layer in between)
            if (
                isinstance(first, Linear)
                and isinstance(second, Linear)
                and not is_reshaped
                and first.outputs != second.inputs
            ):
                raise InvalidInput(
                    f"{self.name(number)} takes {second.inputs} columns, but {self.name(before)} "
                    f"makes {first.outputs}",
                    field="layers",
                )
            assert isinstance(first, Weighted)
            assert isinstance(second, Weighted)
            if first.dtype != second.dtype:
                raise InvalidInput(
                    f"{self.name(number)} is {second.dtype}, but {self.name(before)} is "
                    f"{first.dtype}; a network has one dtype",
                    field="layers",
                )

    def name(self, number: int) -> str:
        """What a layer is called in errors."""
        return f"layer {number + self._first_number} ({self.layers[number]!r})"

    def for_images(self, image: Image) -> Sequential:
        """The same layers behind one that makes images of this size of rows; raises InvalidInput
        that names the layer where such images do not fit."""
        made = Sequential.__new__(Sequential)
        made._first_number = self._first_number - 1  # noqa: SLF001 - it is one of ours.
        Sequential.__init__(made, Unflatten(1, image), *self.layers)
        return made

    @property
    def linear(self) -> tuple[Linear, ...]:
        """The Linear layers."""
        return tuple(layer for layer in self.layers if isinstance(layer, Linear))

    @property
    def weighted(self) -> tuple[Weighted, ...]:
        """The layers that have parameters."""
        return self._weighted

    @property
    def takes_images(self) -> bool:
        """Whether it takes n x channels x height x width, rather than rows."""
        return takes_images(self.layers)

    @property
    def made(self) -> Shape | None:
        """The shape of what it makes of a sample: (columns,) or (channels, height, width); None
        where that depends on the size of the images that it takes."""
        return self._made

    @property
    def inputs(self) -> int:
        """Columns of its samples; raises InvalidInput where it takes images."""
        if self._taken is None:
            raise InvalidInput(f"{self!r} takes images, n x channels x height x width")
        return self._taken[0]

    @property
    def outputs(self) -> int:
        """Elements that it makes of a sample; raises InvalidInput where that depends on the size of
        its images."""
        if self._made is not None:
            return math.prod(self._made)
        for layer in reversed(self.layers):
            if isinstance(layer, Linear):
                return layer.outputs
            if not isinstance(layer, Activation | Flatten):
                break
        raise InvalidInput(
            f"what {self!r} makes depends on the size of its images; begin it with "
            "nn.Unflatten(1, (channels, height, width))"
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._weighted[0].dtype

    @property
    def parameters(self) -> tuple[Array, ...]:
        """All weights and biases, layer by layer."""
        each = ((layer.weight, layer.bias) for layer in self._weighted)
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
    if not isinstance(layer, Linear | Conv2d | Pooling | Activation | Flatten | Unflatten):
        raise InvalidInput(
            f"layer {number} is a {type(layer).__name__}; it may be Linear, Conv2d, MaxPool2d, "
            "AvgPool2d, Activation, Flatten, Unflatten or the name of an activation",
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
