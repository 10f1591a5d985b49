"""Layers, losses and their derivatives, written against the array namespace of their operands.

Rules of this file: arrays are rows of a batch in the network's dtype, and nothing outside the rows
that were given is read or written, so that blocks of rows may be computed at the same time. A layer
without parameters is an entry of FUNCTIONS, a loss one of LOSSES; derivatives work in place on the
gradient that came from behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import pi, sqrt
from types import ModuleType
from typing import Any, Final

from deadheat.runtime.operations import LayerFunction, Loss
from deadheat.runtime.special import erf

Array = Any

#: The constants of gelu's tanh form: sqrt(2 / pi) and Hendrycks and Gimpel's coefficient (2016).
GELU_SCALE: Final = sqrt(2 / pi)
GELU_CUBE: Final = 0.044715


@dataclass(frozen=True)
class Function:
    """`apply(xp, x, out)`; `derive(xp, g, x, y)` turns the gradient g of y into that of x."""

    apply: Callable[[ModuleType, Array, Array], None]
    derive: Callable[[ModuleType, Array, Array, Array], None]
    #: The derivative is a formula in y alone, so that y may be made where x was.
    forgets: bool = True


def _relu(xp: ModuleType, x: Array, out: Array) -> None:
    xp.maximum(x, 0, out=out)  # NaN stays NaN, as in NumPy.


def _relu_back(xp: ModuleType, g: Array, x: Array, y: Array) -> None:
    del x
    xp.multiply(g, y != 0, out=g)


def _tanh(xp: ModuleType, x: Array, out: Array) -> None:
    xp.tanh(x, out=out)


def _tanh_back(xp: ModuleType, g: Array, x: Array, y: Array) -> None:
    del xp, x
    g *= 1 - y * y


def _sigmoid(xp: ModuleType, x: Array, out: Array) -> None:
    """1 / (1 + exp(-x)) without overflow, through tanh."""
    xp.multiply(x, 0.5, out=out)
    xp.tanh(out, out=out)
    out += 1
    out *= 0.5


def _sigmoid_back(xp: ModuleType, g: Array, x: Array, y: Array) -> None:
    del xp, x
    g *= y * (1 - y)


def _gelu(xp: ModuleType, x: Array, out: Array) -> None:
    out[...] = 0.5 * x * (1 + erf(xp)(x * sqrt(0.5)))


def _gelu_back(xp: ModuleType, g: Array, x: Array, y: Array) -> None:
    """gelu(x) = x Phi(x), so its derivative is Phi(x) + x phi(x)."""
    del y
    distribution = 0.5 * (1 + erf(xp)(x * sqrt(0.5)))
    g *= distribution + x * xp.exp(x * x * -0.5) * (1 / sqrt(2 * pi))


def _gelu_tanh(xp: ModuleType, x: Array, out: Array) -> None:
    out[...] = 0.5 * x * (1 + xp.tanh(GELU_SCALE * (x + GELU_CUBE * x * x * x)))


def _gelu_tanh_back(xp: ModuleType, g: Array, x: Array, y: Array) -> None:
    del y
    square = x * x
    t = xp.tanh(GELU_SCALE * x * (1 + GELU_CUBE * square))
    inner = GELU_SCALE * (1 + 3 * GELU_CUBE * square)
    g *= 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner


def _softmax(xp: ModuleType, x: Array, out: Array) -> None:
    xp.subtract(x, x.max(axis=1, keepdims=True), out=out)
    xp.exp(out, out=out)
    out /= out.sum(axis=1, keepdims=True)


def _softmax_back(xp: ModuleType, g: Array, x: Array, y: Array) -> None:
    del xp, x
    g -= (g * y).sum(axis=1, keepdims=True)
    g *= y


FUNCTIONS: Final[Mapping[LayerFunction, Function]] = {
    LayerFunction.RELU: Function(_relu, _relu_back),
    LayerFunction.GELU: Function(_gelu, _gelu_back, forgets=False),
    LayerFunction.GELU_TANH: Function(_gelu_tanh, _gelu_tanh_back, forgets=False),
    LayerFunction.TANH: Function(_tanh, _tanh_back),
    LayerFunction.SIGMOID: Function(_sigmoid, _sigmoid_back),
    LayerFunction.SOFTMAX: Function(_softmax, _softmax_back),
}


def _cross_entropy(xp: ModuleType, output: Array, targets: Array, g: Array, rows: int) -> float:
    """log(sum(exp(x))) - x[label] for each row, and softmax(x) - onehot(label)."""
    labels = targets[:, 0]
    at = xp.arange(len(labels))
    xp.subtract(output, output.max(axis=1, keepdims=True), out=g)
    chosen = g[at, labels].astype(xp.float64)
    xp.exp(g, out=g)
    total = g.sum(axis=1, keepdims=True)
    losses = xp.log(total[:, 0].astype(xp.float64)) - chosen
    g /= total
    g[at, labels] -= 1
    g *= 1 / rows
    return float(losses.sum())


def _mean_squares(xp: ModuleType, output: Array, targets: Array, g: Array, rows: int) -> float:
    xp.subtract(output, targets, out=g)
    columns = output.shape[1]
    total: float = float(xp.square(g.astype(xp.float64)).sum()) / columns
    g *= 2 / (rows * columns)
    return total


#: `loss(xp, output, targets, g, rows)`: the sum of the rows' losses; `g` gets the gradient of the
#: mean over `rows` rows, of which these are some.
LOSSES: Final[Mapping[Loss, Callable[[ModuleType, Array, Array, Array, int], float]]] = {
    Loss.CROSS_ENTROPY: _cross_entropy,
    Loss.MEAN_SQUARES: _mean_squares,
}
