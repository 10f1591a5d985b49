"""A network forwards and backwards, as expressions.

Rules of this file: nothing is computed here. Derivatives are written in the operations that there
are: of relu it is `y != 0`, of those that have one, a formula in what the layer has made already.
Each element of a weight's gradient is one dot product over all rows of the batch, so gradients are
the same up to rounding, however the devices share them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import pi, sqrt
from typing import Final

from deadheat.client.lazy import Lazy
from deadheat.client.nn.convolving import (
    convolve,
    convolve_back,
    convolve_weights,
    pool,
    pool_back,
)
from deadheat.client.nn.images import Conv2d, Image, Layer, Pooling, Unflatten
from deadheat.client.nn.layers import Activation, ActivationName, Flatten, Linear, Weighted
from deadheat.client.nn.sequential import Sequential
from deadheat.runtime.windows import Window

#: The constants of gelu's tanh form: sqrt(2 / pi) and Hendrycks and Gimpel's coefficient (2016).
GELU_SCALE: Final = sqrt(2 / pi)
GELU_CUBE: Final = 0.044715


@dataclass(frozen=True)
class Step:
    """What one layer made of what."""

    layer: Layer
    before: Lazy
    after: Lazy
    weight: Lazy | None = None
    window: Window | None = None


def forward(network: Sequential, x: Lazy, parameters: Sequence[Lazy]) -> Sequence[Step]:
    """Each layer's step, for parameters in the order of `network.parameters`.

    Images are rows here, and begin with Unflatten (`Sequential.for_images`).
    """
    left = iter(parameters)
    steps: list[Step] = []
    image: Image | None = None
    for layer in network:
        match layer:
            case Conv2d():
                assert image is not None
                window, weight = layer.window(image), next(left)
                bias = None if layer.bias is None else next(left)
                after = convolve(x, weight, bias, window)
                steps.append(Step(layer, x, after, weight, window))
                image = (layer.out_channels, window.out_height, window.out_width)
            case Pooling():
                assert image is not None
                window = layer.window(image)
                after = pool(x, window, layer.function)
                steps.append(Step(layer, x, after, window=window))
                image = (image[0], window.out_height, window.out_width)
            case Linear():
                weight = next(left)
                after = x @ weight
                if layer.bias is not None:
                    after = after + next(left)
                steps.append(Step(layer, x, after, weight))
            case Activation(name=name):
                steps.append(Step(layer, x, _FUNCTIONS[name](x)))
            case Flatten() | Unflatten():  # All samples are rows.
                steps.append(Step(layer, x, x))
                image = layer.image if isinstance(layer, Unflatten) else None
        x = steps[-1].after
    return steps


def backward(steps: Sequence[Step], gradient: Lazy) -> Sequence[Lazy]:
    """Gradients of the parameters, in the order of `network.parameters`, from that of the result.

    Dtypes are those of the parameters, and shapes those of `matrix_of` them.
    """
    found: list[Lazy] = []
    first = next(number for number, step in enumerate(steps) if isinstance(step.layer, Weighted))
    for number in range(len(steps) - 1, first - 1, -1):
        step = steps[number]
        match step.layer:
            case Linear() as layer:
                assert step.weight is not None
                if layer.bias is not None:
                    found.append(gradient.sum(axis=0))
                found.append(step.before.T @ gradient)
                if number > first:  # Nobody asks for the gradient of the samples.
                    gradient = gradient @ step.weight.T
            case Conv2d() as layer:
                assert step.weight is not None
                assert step.window is not None
                by_weight, by_bias = convolve_weights(
                    step.before, gradient, step.window, has_bias=layer.bias is not None
                )
                found += [by_weight] if by_bias is None else [by_bias, by_weight]
                if number > first:
                    gradient = convolve_back(gradient, step.weight, step.window)
            case Pooling() as layer:
                assert step.window is not None
                gradient = pool_back(step.before, gradient, step.window, layer.function)
            case Activation(name=name):
                gradient = _DERIVATIVES[name](gradient, step.before, step.after)
            case Flatten() | Unflatten():
                pass
    return found[::-1]


_FUNCTIONS: Final[Mapping[ActivationName, Callable[[Lazy], Lazy]]] = {
    "none": lambda x: x,
    "relu": Lazy.relu,
    "gelu": Lazy.gelu,
    "gelu_tanh": lambda x: x.gelu(approximate="tanh"),
    "tanh": Lazy.tanh,
    "sigmoid": Lazy.sigmoid,
    "softmax": Lazy.softmax,
}


def _gelu(g: Lazy, x: Lazy, y: Lazy) -> Lazy:
    """gelu(x) = x Phi(x), so its derivative is Phi(x) + x phi(x). Phi(x) is y / x, and 1/2 at 0."""
    is_zero = 1 - x.astype("bool").astype(x.dtype)
    distribution = y / (x + is_zero) + 0.5 * is_zero
    density = (x * x * -0.5).exp() * (1 / sqrt(2 * pi))
    return g * (distribution + x * density)


def _gelu_tanh(g: Lazy, x: Lazy, y: Lazy) -> Lazy:
    del y
    square = x * x
    t = (x * (square * GELU_CUBE + 1) * GELU_SCALE).tanh()
    inner = (square * (3 * GELU_CUBE) + 1) * GELU_SCALE
    return g * (0.5 * (t + 1) + 0.5 * x * (1 - t * t) * inner)


def _softmax(g: Lazy, x: Lazy, y: Lazy) -> Lazy:
    del x
    return y * (g - (g * y).sum(axis=1, keepdims=True))


#: The gradient before an activation, from that behind it, what came in and what came out.
_DERIVATIVES: Final[Mapping[ActivationName, Callable[[Lazy, Lazy, Lazy], Lazy]]] = {
    "none": lambda g, _, __: g,
    "relu": lambda g, _, y: g * y.astype("bool"),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "tanh": lambda g, _, y: g * (1 - y * y),
    "sigmoid": lambda g, _, y: g * (y * (1 - y)),
    "softmax": _softmax,
}
