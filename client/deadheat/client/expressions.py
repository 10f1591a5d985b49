"""Expressions over matrices: nodes that are checked as they are made, and say where they were.

Rules of this file: nothing is computed and nothing moves. A node is a matrix of two dimensions, as
programs have them; what NumPy calls 1-D is one row here, and what it calls a scalar is 1 x 1.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np

from deadheat.client.arrays import Array
from deadheat.runtime.dtypes import element_type, name_of, numpy_dtype, promoted
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import (
    Binary,
    BinaryFunction,
    Cast,
    Gemm,
    Kind,
    MatrixType,
    Operation,
    SumAlong,
    Transpose,
)
from deadheat.runtime.rules import result_type

P = ParamSpec("P")
T = TypeVar("T")

#: Rows of a sum along axis 0 that are added by one device; a taller matrix is added by many.
SUM_ROWS: Final = 1024
#: Frames of these are ours or NumPy's, and not the user's line.
_NOT_THE_USERS: Final = ("deadheat.", "numpy.")


#: What operands are called in errors, by how many there are.
_NAMES: Final = (("the matrix",), ("left", "right"), ("samples", "weights", "bias"))


class Held:
    """An operand that somebody holds on to: in this process if it is small (or there is no
    cluster), else in the store until nobody uses it any more."""

    __slots__ = ("__weakref__", "array", "matrix_id", "type")

    def __init__(self, matrix: MatrixType, array: Array | None = None, matrix_id: str = "") -> None:
        self.type = matrix
        self.array = array
        self.matrix_id = matrix_id


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One matrix of an expression: an operation on others, or (`held`) an operand."""

    type: MatrixType
    kind: Kind | None = None
    inputs: tuple[Node, ...] = ()
    held: Held | None = None


def leaf(held: Held) -> Node:
    return Node(held.type, held=held)


def operation(kind: Kind, *inputs: Node) -> Node:
    """A checked operation; raises InvalidInput for what does not fit."""
    names = _NAMES[len(inputs) - 1]
    types = {name: node.type for name, node in zip(names, inputs, strict=True)}
    matrix = result_type(Operation("the result", names, kind), types)
    matrix.check("the result")
    return Node(matrix, kind, inputs)


def cast(node: Node, dtype: str) -> Node:
    return node if node.type.dtype == dtype else operation(Cast(dtype), node)


def transposed(node: Node) -> Node:
    """The transpose of a transpose is what it was; of one element, itself."""
    if node.kind == Transpose():
        return node.inputs[0]
    return node if node.type.rows == node.type.columns == 1 else operation(Transpose(), node)


def product(a: Node, b: Node) -> Node:
    dtype = promoted(a.type.dtype, b.type.dtype)
    return operation(Gemm(), cast(a, dtype), cast(b, dtype))


def binary(function: BinaryFunction, a: Node, b: Node) -> Node:
    return operation(Binary(function), a, b)


def constant(value: Any, dtype: str) -> Node:
    """One element; raises InvalidInput where the dtype does not hold it."""
    try:
        array = np.asarray(value, numpy_dtype(dtype)).reshape(1, 1)
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidInput(f"{value!r} is no {dtype}: {error}") from None
    return leaf(Held(MatrixType(1, 1, dtype), array))


def scalar_dtype(value: complex, beside: str) -> str:
    """The dtype of a Python number beside an array: the array's if that is of its kind, as NumPy
    has it (NEP 50)."""
    if beside == "bfloat16" and not isinstance(value, int):
        beside = "float32"  # As ml_dtypes has it.
    elif beside == "bfloat16":
        return beside
    return name_of(np.result_type(numpy_dtype(beside), value), field="the number")


def sums(node: Node, axis: int, dtype: str | None = None) -> Node:
    """Sums along an axis, those of many rows in two steps that many devices can do."""
    summed = operation(SumAlong(axis, dtype=dtype), node)
    if axis == 1 or node.type.rows <= 2 * SUM_ROWS:
        return summed
    final = summed.type.dtype
    element = element_type(final)
    half = operation(SumAlong(0, SUM_ROWS, element.compute), node)
    return operation(SumAlong(0, dtype=final), half)


def located(method: Callable[P, T]) -> Callable[P, T]:
    """Puts the user's line behind what was wrong with an expression: an expression is used long
    after it was written."""

    @wraps(method)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except InvalidInput as error:
            line = f" ({_users_line()})"
            if error.message.endswith(line):  # Said by one that this one has called.
                raise
            raise InvalidInput(error.message + line, field=error.field) from None

    return checked


def _users_line() -> str:
    frame = inspect.currentframe()
    while frame is not None and frame.f_back is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if not f"{module}.".startswith(_NOT_THE_USERS):
            break
        frame = frame.f_back
    assert frame is not None
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}"
