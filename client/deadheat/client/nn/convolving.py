"""Convolutions and pooling as expressions, forwards and backwards: samples are rows."""

from __future__ import annotations

from typing import Final

from deadheat.client import expressions as ex
from deadheat.client.expressions import Node
from deadheat.client.lazy import Lazy
from deadheat.runtime.dtypes import promoted
from deadheat.runtime.programs import Rectangle, Slice
from deadheat.runtime.windows import (
    Convolve,
    ConvolveBack,
    ConvolveWeights,
    PoolFunction,
    Pooling,
    PoolingBack,
    Window,
)

#: Samples whose gradients by weights are added by one device: enough for a product, and few, so
#: that a batch has many such blocks.
BLOCK_SAMPLES: Final = 8
#: What all blocks' gradients may take in the store. Large weights have fewer blocks.
BLOCKS_BYTES: Final = 64 << 20


def convolve(x: Lazy, weight: Lazy, bias: Lazy | None, window: Window) -> Lazy:
    """n x (outputs * places) for samples of n x inputs, weights of 1 x (outputs * depth) and a bias
    of `outputs` elements; in NumPy's common dtype."""
    dtype = promoted(x.node.type.dtype, weight.node.type.dtype)
    given = [x.node, weight.node] + ([] if bias is None else [bias.node])
    return _rows(x, ex.operation(Convolve(window), *(ex.cast(node, dtype) for node in given)))


def convolve_back(gradient: Lazy, weight: Lazy, window: Window) -> Lazy:
    """The gradient by the samples."""
    return _rows(gradient, ex.operation(ConvolveBack(window), gradient.node, weight.node))


def convolve_weights(
    x: Lazy, gradient: Lazy, window: Window, *, has_bias: bool
) -> tuple[Lazy, Lazy | None]:
    """The gradients by the weights, 1 x (outputs * depth), and by the bias.

    Each device makes those of some blocks of samples, which are then added: they are the same
    whatever the cut.
    """
    rows = x.node.type.rows
    outputs = gradient.node.type.columns // window.places
    row_bytes = outputs * window.depth * x.node.type.element.itemsize
    blocks = max(1, min(-(-rows // BLOCK_SAMPLES), BLOCKS_BYTES // row_bytes))
    kind = ConvolveWeights(window, max(1, -(-rows // blocks)), has_bias)
    dtype = gradient.node.type.dtype
    parts = ex.operation(kind, ex.cast(x.node, dtype), gradient.node)
    total = ex.sums(parts, 0)
    weights = outputs * window.depth
    if not has_bias:
        return Lazy(x.client, total, (1, weights)), None
    by_weight = ex.operation(Slice(Rectangle(0, 1, 0, weights)), total)
    by_bias = ex.operation(Slice(Rectangle(0, 1, weights, weights + outputs)), total)
    return Lazy(x.client, by_weight, (1, weights)), Lazy(x.client, by_bias, (outputs,))


def pool(x: Lazy, window: Window, function: PoolFunction) -> Lazy:
    return _rows(x, ex.operation(Pooling(window, function), x.node))


def pool_back(x: Lazy, gradient: Lazy, window: Window, function: PoolFunction) -> Lazy:
    """The gradient by what pooling got, x."""
    kind = PoolingBack(window, function)
    if function is PoolFunction.MEAN:
        return _rows(gradient, ex.operation(kind, gradient.node))
    return _rows(gradient, ex.operation(kind, x.node, gradient.node))


def _rows(like: Lazy, node: Node) -> Lazy:
    return Lazy(like.client, node, (*like.shape[:-1], node.type.columns))
