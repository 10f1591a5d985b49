"""`Lazy`: a matrix that is not computed yet, with NumPy's operators."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Final, SupportsIndex

import numpy as np

from deadheat.client import expressions as ex
from deadheat.client.arrays import Array, ArrayLike
from deadheat.client.expressions import Node, located
from deadheat.runtime.dtypes import element_type, name_of, numpy_dtype
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import (
    BinaryFunction,
    Rectangle,
    Slice,
    Softmax,
    Unary,
    UnaryFunction,
)

if TYPE_CHECKING:
    from deadheat.client.programs import Programs

Index = slice | SupportsIndex | EllipsisType


class Lazy:
    """An expression over matrices that a client holds: `(X @ W + b).relu()`.

    Shapes and dtypes are NumPy's, for up to two dimensions, and are checked as the expression is
    written: what NumPy would refuse raises InvalidInput, which names the line. Nothing is computed
    before `compute`, `Client.compute`, `Client.submit`, `Client.persist` or `numpy.asarray`.
    `node` is the expression as programs have it, in two dimensions.
    """

    __slots__ = ("client", "node", "shape")
    __iter__ = None

    def __init__(self, client: Programs, node: Node, shape: tuple[int, ...]) -> None:
        self.client = client
        self.node = node
        self.shape = shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return numpy_dtype(self.node.type.dtype)

    def __repr__(self) -> str:
        sizes = " x ".join(str(size) for size in self.shape) or "scalar"
        return f"<Lazy {sizes} {self.dtype}>"

    @located
    def __bool__(self) -> bool:
        raise InvalidInput("a lazy matrix has no truth value; compute() it first")

    def compute(self, **options: Any) -> Array:
        """Its value; options are those of `Client.compute`."""
        made: Array = self.client.compute(self, **options)
        return made

    # Products and sums

    @located
    def __matmul__(self, other: ArrayLike) -> Lazy:
        return self._product(self, self._read(other))

    @located
    def __rmatmul__(self, other: ArrayLike) -> Lazy:
        return self._product(self._read(other), self)

    def _product(self, left: Lazy, right: Lazy) -> Lazy:
        if not left.ndim or not right.ndim:
            raise InvalidInput("a product needs 1 or 2 dimensions, not a scalar; use * for that")
        column = right.node if right.ndim == 2 else ex.transposed(right.node)
        made = ex.product(left.node, column)
        shape = (*left.shape[:-1], *right.shape[1:])
        if left.ndim == 2 and right.ndim == 1:
            made = ex.transposed(made)
        return Lazy(self.client, made, shape)

    def _binary(self, function: BinaryFunction, left: ArrayLike, right: ArrayLike) -> Lazy:
        first, second = self._read(left, self), self._read(right, self)
        try:
            shape = np.broadcast_shapes(first.shape, second.shape)
        except ValueError:
            raise InvalidInput(
                f"shapes {first.shape} and {second.shape} cannot be broadcast to one"
            ) from None
        return Lazy(self.client, ex.binary(function, first.node, second.node), shape)

    @located
    def __add__(self, other: ArrayLike) -> Lazy:
        return self._binary(BinaryFunction.ADD, self, other)

    @located
    def __radd__(self, other: ArrayLike) -> Lazy:
        return self._binary(BinaryFunction.ADD, other, self)

    @located
    def __sub__(self, other: ArrayLike) -> Lazy:
        return self._binary(BinaryFunction.SUBTRACT, self, other)

    @located
    def __rsub__(self, other: ArrayLike) -> Lazy:
        return self._binary(BinaryFunction.SUBTRACT, other, self)

    @located
    def __mul__(self, other: ArrayLike) -> Lazy:
        return self._binary(BinaryFunction.MULTIPLY, self, other)

    @located
    def __rmul__(self, other: ArrayLike) -> Lazy:
        return self._binary(BinaryFunction.MULTIPLY, other, self)

    @located
    def __truediv__(self, other: ArrayLike) -> Lazy:
        return self._binary(BinaryFunction.DIVIDE, self, other)

    @located
    def __rtruediv__(self, other: ArrayLike) -> Lazy:
        return self._binary(BinaryFunction.DIVIDE, other, self)

    # Functions of each element

    def _unary(self, function: UnaryFunction) -> Lazy:
        return self._like(ex.operation(Unary(function), self.node))

    def _like(self, node: Node) -> Lazy:
        return Lazy(self.client, node, self.shape)

    @located
    def __neg__(self) -> Lazy:
        return self._unary(UnaryFunction.NEGATIVE)

    @located
    def exp(self) -> Lazy:
        return self._unary(UnaryFunction.EXP)

    @located
    def tanh(self) -> Lazy:
        return self._unary(UnaryFunction.TANH)

    @located
    def relu(self) -> Lazy:
        return self._unary(UnaryFunction.RELU)

    @located
    def sigmoid(self) -> Lazy:
        return self._unary(UnaryFunction.SIGMOID)

    @located
    def gelu(self, approximate: str = "none") -> Lazy:
        """`approximate` is "none" (exact, with erf) or "tanh"."""
        functions = {"none": UnaryFunction.GELU, "tanh": UnaryFunction.GELU_TANH}
        if not isinstance(approximate, str) or approximate not in functions:
            raise InvalidInput(f"approximate is {approximate!r}; it may be none, tanh")
        return self._unary(functions[approximate])

    @located
    def astype(self, dtype: Any) -> Lazy:
        try:
            wanted = np.dtype(dtype)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"dtype is {dtype!r}: {error}") from None
        name = name_of(wanted, field="dtype")
        return self._like(ex.cast(self.node, name))

    # Along an axis

    @located
    def softmax(self, axis: int = -1) -> Lazy:
        """`exp(x) / sum(exp(x))` along an axis, without overflow."""
        at = self._axis(axis)
        if at == 0 and self.ndim == 2:
            turned = ex.operation(Softmax(), ex.transposed(self.node))
            return self._like(ex.transposed(turned))
        return self._like(ex.operation(Softmax(), self.node))

    @located
    def sum(self, axis: int | None = None, *, keepdims: bool = False) -> Lazy:
        """Sums along an axis, or of all elements (None), in NumPy's dtype."""
        return self._summed(axis, keepdims, None)

    @located
    def mean(self, axis: int | None = None, *, keepdims: bool = False) -> Lazy:
        """Means along an axis, or of all elements (None); of integers they are float64."""
        element = element_type(self.node.type.dtype)
        wide = "float64" if element.is_exact else element.compute
        total = self._summed(axis, keepdims, wide)
        sizes = self.shape if axis is None else (self.shape[self._axis(axis)],)
        count = ex.constant(int(np.prod(sizes)), wide)
        mean = ex.binary(BinaryFunction.DIVIDE, total.node, count)
        dtype = wide if element.is_exact else element.name
        return Lazy(self.client, ex.cast(mean, dtype), total.shape)

    def _summed(self, axis: int | None, keepdims: bool, dtype: str | None) -> Lazy:
        at = None if axis is None else self._axis(axis)
        node = self.node
        if self.ndim < 2 or at is None:
            # All elements: rows first, then what they come to, rounded once.
            own = dtype or ex.sums(node, 1).type.dtype
            if node.type.rows == 1:
                made = ex.sums(node, 1, own)
            else:
                wide = own if element_type(own).is_exact else element_type(own).compute
                made = ex.sums(ex.sums(node, 1, wide), 0, own)
            return Lazy(self.client, made, (1,) * self.ndim if keepdims else ())
        made = ex.sums(node, at, dtype)
        if keepdims:
            return Lazy(self.client, made, (1, self.shape[1]) if at == 0 else (self.shape[0], 1))
        return Lazy(self.client, made if at == 0 else ex.transposed(made), (self.shape[1 - at],))

    def _axis(self, axis: int) -> int:
        try:
            at = operator.index(axis)
        except TypeError:
            raise InvalidInput(f"axis is {axis!r}; it must be one whole number") from None
        if not -self.ndim <= at < self.ndim:
            raise InvalidInput(f"axis is {at}, but there are {self.ndim} dimensions")
        return at % self.ndim

    # Rearranged

    @property
    @located
    def T(self) -> Lazy:  # noqa: N802 - NumPy's name.
        if self.ndim < 2:
            return self
        return Lazy(self.client, ex.transposed(self.node), self.shape[::-1])

    @located
    def __getitem__(self, index: Index | tuple[Index, ...]) -> Lazy:
        """Rows and columns by integers and slices, without a step."""
        given = _for_each(index if isinstance(index, tuple) else (index,), self.ndim)
        ranges = [_range(one, size) for one, size in zip(given, self.shape, strict=True)]
        rows, columns = [(0, 1)] * (2 - len(ranges)) + ranges
        node = self.node
        if Rectangle(*rows, *columns) != node.type.whole():
            node = ex.operation(Slice(Rectangle(*rows, *columns)), node)
        kept = [isinstance(one, slice) for one in given]
        if kept == [True, False]:
            node = ex.transposed(node)  # One column becomes 1-D, which is a row here.
        shape = tuple(stop - start for (start, stop), keep in zip(ranges, kept) if keep)
        return Lazy(self.client, node, shape)

    # NumPy's protocols

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a lazy matrix has to be computed: there is nothing to share")
        made = np.asarray(self.compute())
        return made if dtype is None else made.astype(dtype, copy=False)

    @located
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        call = _UFUNCS.get(ufunc.__name__)
        if call is None or method != "__call__" or options:
            return NotImplemented
        first, *rest = (self._read(value, self) for value in inputs)
        return call(first, *rest)

    @located
    def __array_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any],
        options: Mapping[str, Any],
    ) -> Any:
        del types
        call = _FUNCTIONS.get(function.__name__)
        if call is None:
            return NotImplemented
        taken = inspect.signature(call)
        try:
            taken.bind(self, *args, **options)
        except TypeError as error:
            _, *names = taken.parameters
            raise InvalidInput(
                f"{function.__name__} of a lazy matrix takes {', '.join(names)}: {error}"
            ) from None
        return call(self, *args, **options)

    def _read(self, value: ArrayLike, beside: Lazy | None = None) -> Lazy:
        """What stands next to this in an expression; a Python number as NumPy takes it `beside`
        an array."""
        if isinstance(value, Lazy):
            if value.client is not self.client:
                raise InvalidInput("the matrices belong to two clients")
            return value
        if beside is not None and type(value) in (bool, int, float, complex):
            dtype = ex.scalar_dtype(value, beside.node.type.dtype)
            return Lazy(self.client, ex.constant(value, dtype), ())
        return self.client.put(value)


def _for_each(given: tuple[Index, ...], ndim: int) -> tuple[Index, ...]:
    """An index for each dimension: those that are not named, where `...` stands or at the end, are
    taken whole."""
    # By identity: an array among them would be compared element by element.
    dots = [at for at, one in enumerate(given) if one is Ellipsis]
    if len(dots) > 1:
        raise InvalidInput(f"an index has ... {len(dots)} times; it may have it once")
    at = dots[0] if dots else len(given)
    before, behind = given[:at], given[at + 1 :]
    missing = ndim - len(before) - len(behind)
    if missing < 0:
        raise InvalidInput(f"{ndim - missing} indices for {ndim} dimensions")
    return (*before, *[slice(None)] * missing, *behind)


def _range(index: Index, size: int) -> tuple[int, int]:
    if isinstance(index, slice):
        try:
            start, stop, step = index.indices(size)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"an index is {index!r}: {error}") from None
        if step != 1:
            raise InvalidInput(f"a slice has step {step}; only consecutive rows can be taken")
        return start, max(start, stop)
    if isinstance(index, (bool, np.bool_)):
        raise InvalidInput(f"an index is {index!r}; it may be an integer or a slice, and no mask")
    try:
        at = operator.index(index)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidInput(f"an index is {index!r}; it may be an integer or a slice") from None
    if not -size <= at < size:
        raise InvalidInput(f"index {at} is out of bounds for {size} elements")
    at %= size
    return at, at + 1


def _dot(_: Lazy, a: ArrayLike, b: ArrayLike) -> Any:
    return a @ b if np.ndim(a) and np.ndim(b) else a * b


def _multi_dot(self: Lazy, arrays: Sequence[ArrayLike]) -> Lazy:
    given = [self._read(value) for value in arrays]
    if len(given) < 2:
        raise InvalidInput(f"arrays has {len(given)} entries; a chain has 2 at least")
    for number, one in enumerate(given[1:-1], 2):
        if one.ndim != 2:  # Multiplied from left to right it would be another product.
            raise InvalidInput(
                f"M{number} has {one.ndim} dimensions; in the middle of a chain it must have 2"
            )
    return reduce(operator.matmul, given)


_UFUNCS: Final[Mapping[str, Callable[..., Any]]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "true_divide": operator.truediv,
    "matmul": operator.matmul,
    "negative": operator.neg,
    "exp": Lazy.exp,
    "tanh": Lazy.tanh,
}
_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "sum": lambda _, a, axis=None, keepdims=False: a.sum(axis, keepdims=keepdims),
    "mean": lambda _, a, axis=None, keepdims=False: a.mean(axis, keepdims=keepdims),
    "transpose": lambda _, a: a.T,
    "dot": _dot,
    "multi_dot": _multi_dot,
    "shape": lambda _, a: a.shape,
    "ndim": lambda _, a: a.ndim,
}
