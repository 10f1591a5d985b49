"""`Graph`: a network that is no chain of layers, as `nn.from_onnx` reads it, as an expression.

Rules of this file: a value of a graph is a constant, or a matrix of the expression; of images it is
the matrix whose rows are the images, with their size. Operations are ONNX's, by their names there;
what does not fit is said with the node's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from deadheat.client.arrays import Array
from deadheat.client.lazy import Lazy
from deadheat.client.nn.convolving import convolve, pool
from deadheat.client.nn.images import Image, by
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.windows import PoolFunction, Window

#: What a constant of a graph is as an operand; those that are used again are the same arrays.
Parameter = Callable[[Array], Lazy]


@dataclass(frozen=True)
class GraphNode:
    """One operation: what it is called in errors, what it is, and what it reads and makes."""

    label: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Value:
    """A matrix; `image` is the size of the images that its rows are."""

    lazy: Lazy
    image: Image | None = None

    def __str__(self) -> str:
        shape = self.lazy.shape if self.image is None else (self.lazy.shape[0], *self.image)
        return by(shape) or "a scalar"


@dataclass(frozen=True, eq=False)
class Graph:
    """A network of any shape, which `Client.forward` computes and `Client.apply` makes an
    expression of. It is not trained, and its file is the one that it came from.

    `taken` are the dimensions of its samples, the batch first; None where they may be any.
    """

    nodes: Sequence[GraphNode]
    constants: Mapping[str, Array]
    input: str
    output: str
    taken: tuple[int | None, ...]
    dtype: np.dtype[Any]
    _made: dict[object, Array] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"<Graph of {len(self.nodes)} nodes, {self.dtype}>"

    def check_samples(self, shape: tuple[int, ...]) -> None:
        """Raises InvalidInput for samples that it does not take."""
        fits = len(shape) == len(self.taken) and all(
            wanted in (None, length) for wanted, length in zip(self.taken[1:], shape[1:])
        )
        if not fits:
            sizes = " x ".join("n" if one is None else str(one) for one in (None, *self.taken[1:]))
            raise InvalidInput(f"X is {by(shape) or 'a scalar'}, but {self!r} takes {sizes}")

    def applied(self, x: Lazy, image: Image | None, parameter: Parameter) -> Value:
        """What it makes of samples as rows, as an expression; raises InvalidInput naming the node
        where shapes do not fit."""
        values: dict[str, Array | Value] = {**self.constants, self.input: Value(x, image)}
        for node in self.nodes:
            given = [values[name] for name in node.inputs]
            try:
                made = _OPERATIONS[node.kind](_Call(self, node, parameter), *given)
            except InvalidInput as error:
                if error.message.startswith(node.label):
                    raise
                raise InvalidInput(f"{node.label}: {error.message}", field=node.label) from None
            values[node.output] = made
        found = values[self.output]
        if not isinstance(found, Value):
            raise InvalidInput(f"{self!r} makes a constant")
        return found


@dataclass(frozen=True)
class _Call:
    """One node, with what its operation needs besides its inputs."""

    graph: Graph
    node: GraphNode
    parameter: Parameter

    def matrix(self, value: Array | Value) -> Lazy:
        """An input of a product."""
        if isinstance(value, Value):
            if value.image is not None:
                raise InvalidInput(f"it takes rows, but gets images, {value}")
            return value.lazy
        if value.ndim not in (1, 2):
            raise InvalidInput(f"a constant has shape {by(value.shape)}; products take matrices")
        return self.parameter(value)

    def row(self, constant: Array, beside: Value) -> Lazy:
        """A constant beside rows or images, with which it is broadcast, as one row."""
        one = beside.lazy.shape[1:] if beside.image is None else beside.image
        key = (id(constant), one)
        if key not in self.graph._made:  # noqa: SLF001 - its own cache.
            try:
                made = np.broadcast_to(constant, (1, *one)).reshape(-1)
            except ValueError:
                raise InvalidInput(
                    f"a constant of {by(constant.shape)} is added to {beside}"
                ) from None
            self.graph._made[key] = np.array(made)  # noqa: SLF001
        return self.parameter(self.graph._made[key])  # noqa: SLF001

    def image(self, value: Array | Value) -> tuple[Lazy, Image]:
        if not isinstance(value, Value) or value.image is None:
            raise InvalidInput(f"it takes images, but gets {_told(value)}")
        return value.lazy, value.image

    def constant(self, value: Array | Value, what: str) -> Array:
        if isinstance(value, Value):
            raise InvalidInput(f"its {what} must be constants of the file")
        return value

    def window(self, image: Image, kernel: Sequence[int]) -> Window:
        options = self.node.options
        made = Window(*image, (kernel[0], kernel[1]), options["stride"], options["padding"])
        made.check(self.node.label)
        return made


def _told(value: Array | Value) -> str:
    return str(value) if isinstance(value, Value) else f"a constant of {by(value.shape)}"


def _matmul(call: _Call, a: Array | Value, b: Array | Value) -> Array | Value:
    if not isinstance(a, Value) and not isinstance(b, Value):
        product: Array = np.matmul(a, b)
        return product
    return Value(call.matrix(a) @ call.matrix(b))


def _gemm(call: _Call, a: Array | Value, b: Array | Value, c: Any = None) -> Value:
    options = call.node.options
    left, right = call.matrix(a), call.matrix(b)
    made = (left.T if options["transA"] else left) @ (right.T if options["transB"] else right)
    made = made if options["alpha"] == 1 else made * options["alpha"]
    if c is None or options["beta"] == 0:
        return Value(made)
    if isinstance(c, Value):
        added = c.lazy
    elif c.ndim == 2 and c.shape[0] != 1:
        added = call.parameter(c)
    else:
        added = call.row(c, Value(made))
    return Value(made + (added if options["beta"] == 1 else added * options["beta"]))


def _conv(call: _Call, x: Array | Value, w: Array | Value, b: Any = None) -> Value:
    lazy, image = call.image(x)
    weight = call.constant(w, "weights")
    if weight.ndim != 4 or weight.shape[1] != image[0]:
        raise InvalidInput(f"weights of {by(weight.shape)} do not fit images of {by(image)}")
    window = call.window(image, weight.shape[2:])
    bias = None if b is None else call.parameter(call.constant(b, "bias"))
    made = convolve(lazy, call.parameter(weight), bias, window)
    return Value(made, (weight.shape[0], window.out_height, window.out_width))


def _pooled(call: _Call, x: Array | Value, function: PoolFunction) -> Value:
    lazy, image = call.image(x)
    window = call.window(image, call.node.options["kernel"])
    made = pool(lazy, window, function)
    return Value(made, (image[0], window.out_height, window.out_width))


def _add(call: _Call, a: Array | Value, b: Array | Value) -> Array | Value:
    if not isinstance(a, Value):
        if not isinstance(b, Value):
            return np.add(a, b)
        a, b = b, a
    if not isinstance(b, Value):
        return Value(a.lazy + call.row(b, a), a.image)
    if a.image != b.image:
        raise InvalidInput(f"{a} and {b} cannot be added")
    return Value(a.lazy + b.lazy, a.image)


def _each(function: Callable[[Lazy], Lazy]) -> Callable[..., Value]:
    """A function of each element."""

    def applied(call: _Call, x: Array | Value) -> Value:
        if not isinstance(x, Value):
            return Value(function(call.matrix(x)))
        return Value(function(x.lazy), x.image)

    return applied


def _gelu(call: _Call, x: Array | Value) -> Value:
    approximate = call.node.options["approximate"]
    return _each(lambda lazy: lazy.gelu(approximate=approximate))(call, x)


def _softmax(call: _Call, x: Array | Value) -> Value:
    lazy, axis = call.matrix(x), call.node.options["axis"]
    if axis not in (-1, lazy.ndim - 1):
        raise InvalidInput(f"it goes along axis {axis}; it may be the last one")
    return Value(lazy.softmax())


def _transpose(call: _Call, x: Array | Value) -> Array | Value:
    perm = call.node.options["perm"]
    if not isinstance(x, Value):
        key = (id(x), perm)
        made = call.graph._made  # noqa: SLF001 - its own cache: parameters are known by identity.
        if key not in made:
            made[key] = np.transpose(x, perm)
        return made[key]
    if perm is not None and perm == tuple(range(len(perm))):
        return x
    if x.image is not None or perm not in (None, (1, 0)):
        raise InvalidInput(f"{x} cannot be transposed by {perm}; rows and columns may change")
    return Value(x.lazy.T)


def _flatten(call: _Call, x: Array | Value) -> Array | Value:
    axis = call.node.options["axis"]
    if axis != 1:
        raise InvalidInput(f"it flattens from axis {axis}; it may be 1")
    if not isinstance(x, Value):
        return x.reshape(len(x), -1)
    return Value(x.lazy)


def _reshape(call: _Call, x: Array | Value, shape: Array | Value) -> Array | Value:
    """Flattening, rows as images, or nothing at all; of constants, anything."""
    target = [int(one) for one in call.constant(shape, "shape")]
    if not isinstance(x, Value):
        return x.reshape(target)
    rows, *rest = target or [0]
    old = x.image or x.lazy.shape[1:]
    size = math.prod(old)
    batches = (-1, 0, call.graph.taken[0], x.lazy.shape[0])
    given = [old[at] if one == 0 and at < len(old) else one for at, one in enumerate(rest)]
    unknown = [one for one in given if one == -1]
    known = math.prod(one for one in given if one != -1)
    is_whole = known == size or (len(unknown) == 1 and known > 0 and size % known == 0)
    if rows in batches and is_whole and (rows != -1 or not unknown) and len(given) in (1, 3):
        sizes = [size // known if one == -1 else one for one in given]
        if len(sizes) == 1:
            return Value(x.lazy)
        return Value(x.lazy, (sizes[0], sizes[1], sizes[2]))
    raise InvalidInput(f"{x} cannot become {by(target)}; samples can be flattened, or made images")


_OPERATIONS: Final[Mapping[str, Callable[..., Array | Value]]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "MaxPool": lambda call, x: _pooled(call, x, PoolFunction.MAX),
    "AveragePool": lambda call, x: _pooled(call, x, PoolFunction.MEAN),
    "Add": _add,
    "Relu": _each(Lazy.relu),
    "Tanh": _each(Lazy.tanh),
    "Sigmoid": _each(Lazy.sigmoid),
    "Gelu": _gelu,
    "Softmax": _softmax,
    "Transpose": _transpose,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Identity": lambda call, x: x,  # noqa: ARG005 - as the others.
}
