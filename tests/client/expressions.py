"""Random expressions, written once as lazy matrices and once as NumPy's, with what rounding may
make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st
from scipy import special

from deadheat.client import Lazy
from deadheat.client.programs import Programs

Array = np.ndarray[Any, Any]

DTYPES: Final = ("float64", "float32", "int64", "int32", "complex128")
SIZES: Final = (1, 2, 3, 5, 17)
MAX_STEPS: Final = 8
#: Larger numbers would leave the range of float32, or that in which integers are exact floats.
MAX_SCALE: Final = 1e5


@dataclass(frozen=True)
class Value:
    """`scale` bounds, for each element, what an error of one unit in every step comes to."""

    lazy: Lazy
    array: Array
    scale: Array
    eps: float
    steps: int = 0

    def check(self, found: Any) -> None:
        assert np.shape(found) == self.array.shape
        assert found.dtype == self.array.dtype
        if self.array.dtype.kind in "biu":
            assert np.array_equal(found, self.array)
            return
        limit = 64 * (1 + self.steps) * self.eps * self.scale
        assert (np.abs(found - self.array) <= limit).all()


Step = tuple[str, Callable[[], tuple[Any, Any, Any]], tuple[Value, ...]]


@st.composite
def values(draw: st.DrawFn, client: Programs) -> list[Value]:
    """Some operands, and what steps have made of them, the last ones last."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pool = [
        _operand(client, rng, draw(st.sampled_from(DTYPES)), shape)
        for shape in draw(
            st.lists(st.lists(st.sampled_from(SIZES), max_size=2), min_size=2, max_size=4)
        )
    ]
    for _ in range(draw(st.integers(1, MAX_STEPS))):
        steps = list(_steps(pool))
        if not steps:
            break
        names = sorted({name for name, _, _ in steps})
        name = draw(st.sampled_from(names))
        _, make, inputs = draw(st.sampled_from([step for step in steps if step[0] == name]))
        lazy, array, scale = make()
        if scale.max(initial=0.0) > MAX_SCALE:
            continue
        array = np.asarray(array)
        eps = max(value.eps for value in inputs)
        if array.dtype.kind in "fc":
            eps = max(eps, float(np.finfo(array.dtype).eps))
        count = sum(value.steps for value in inputs) + 1
        pool.append(Value(lazy, array, np.asarray(scale), eps, count))
    return pool


def _operand(client: Programs, rng: np.random.Generator, dtype: str, shape: list[int]) -> Value:
    if dtype.startswith("int"):
        array: Any = rng.integers(-4, 5, shape)
    else:
        array = rng.uniform(-1, 1, shape)
        if dtype.startswith("complex"):
            array = array + 1j * rng.uniform(-1, 1, shape)
    array = np.asarray(array).astype(dtype)
    eps = 0.0 if array.dtype.kind == "i" else float(np.finfo(array.dtype).eps)
    return Value(client.put(array), array, np.abs(array).astype(float), eps)


def _steps(pool: list[Value]) -> Iterator[Step]:
    for x in pool:
        yield from _unary(x)
        for y in pool:
            yield from _binary(x, y)


def _binary(x: Value, y: Value) -> Iterator[Step]:
    a, b, s, t = x.array, y.array, x.scale, y.scale
    if a.ndim and b.ndim and a.shape[-1] == b.shape[0]:
        yield "matmul", lambda: (x.lazy @ y.lazy, a @ b, s @ t), (x, y)
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return
    yield "add", lambda: (x.lazy + y.lazy, a + b, s + t), (x, y)
    yield "subtract", lambda: (x.lazy - y.lazy, a - b, s + t), (x, y)
    yield "multiply", lambda: (x.lazy * y.lazy, a * b, s * t), (x, y)


def _unary(x: Value) -> Iterator[Step]:
    a, s = x.array, x.scale
    yield "negative", lambda: (-x.lazy, -a, s), (x,)
    yield "scalar", lambda: (2.5 * x.lazy + 1, 2.5 * a + 1, 2.5 * s + 1), (x,)
    yield "sum", lambda: (x.lazy.sum(), a.sum(), s.sum()), (x,)
    if a.size:
        yield "mean", lambda: (x.lazy.mean(), a.mean(), s.mean()), (x,)
    yield "transpose", lambda: (x.lazy.T, a.T, s.T), (x,)
    for axis in range(a.ndim):
        yield from _sums(x, axis)
    if a.ndim:
        yield "rows", lambda: (x.lazy[1:4], a[1:4], s[1:4]), (x,)
    if a.ndim and len(a):
        yield "row", lambda: (x.lazy[-1], a[-1], s[-1]), (x,)
    if a.ndim == 2 and a.shape[1]:
        yield "column", lambda: (x.lazy[:, 0], a[:, 0], s[:, 0]), (x,)
    if a.dtype.kind in "if":
        yield "relu", lambda: (x.lazy.relu(), np.maximum(a, 0), s), (x,)
    if a.dtype.kind == "f":
        yield "tanh", lambda: (x.lazy.tanh(), np.tanh(a), s + 1), (x,)
        yield "sigmoid", lambda: (x.lazy.sigmoid(), special.expit(a), s + 1), (x,)
        gelu = (a * special.ndtr(a)).astype(a.dtype)
        yield "gelu", lambda: (x.lazy.gelu(), gelu, 2 * s + 1), (x,)
        yield "cast", lambda: (x.lazy.astype("float64"), a.astype("float64"), s), (x,)
        if a.ndim and a.size:
            high = 2 * s.max(axis=-1, keepdims=True) + 1 + 0 * s
            yield "softmax", lambda: (x.lazy.softmax(), special.softmax(a, axis=-1), high), (x,)


def _sums(x: Value, axis: int) -> Iterator[Step]:
    a, s = x.array, x.scale
    yield "sum", lambda: (x.lazy.sum(axis), a.sum(axis), s.sum(axis)), (x,)
    kept, whole, scale = x.lazy.sum(axis, keepdims=True), a.sum(axis), s.sum(axis)
    wide = (np.expand_dims(whole, axis), np.expand_dims(scale, axis))
    yield "keepdims", lambda: (kept, *wide), (x,)
