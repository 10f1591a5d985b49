"""The rules of operations that are not products: element by element, along an axis, rearranged.

Rules of this file: `rules` asks, with the same questions for all kinds; NumPy is the judge of
dtypes and shapes, and what it refuses is refused here with the operands' names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, assert_never

from deadheat.runtime.dtypes import element_type, float_for, promoted
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.operations import (
    Binary,
    BinaryFunction,
    Cast,
    Operation,
    Slice,
    Softmax,
    SumAlong,
    Transpose,
    Unary,
    UnaryFunction,
)
from deadheat.runtime.rectangles import MatrixType, Rectangle

Rest = Unary | Binary | Cast | Softmax | SumAlong | Transpose | Slice

#: What an element costs, in additions of a sum of four large matrices, which is what a device's
#: calibration measures (0.90 ns of float64, 0.29 ns of float32, with NumPy 2.4 on an x86 core).
#: Between the two types: relu 1.8 and 1.9, exp 2.0 and 2.4, tanh 3.0 and 2.1, sigmoid 8.7 and 13,
#: gelu 18 and 42, its tanh form 11 and 23, softmax 4.1 and 5.6, transposes 8.8 and 22.
_FUNCTION_PASSES: Final = {
    UnaryFunction.NEGATIVE: 1,
    UnaryFunction.RELU: 2,
    UnaryFunction.EXP: 2,
    UnaryFunction.TANH: 3,
    UnaryFunction.SIGMOID: 11,
    UnaryFunction.GELU: 28,
    UnaryFunction.GELU_TANH: 16,
}
_SOFTMAX_PASSES: Final = 5
_TRANSPOSE_PASSES: Final = 14
_FLOAT_FUNCTIONS: Final = (UnaryFunction.GELU, UnaryFunction.GELU_TANH, UnaryFunction.SIGMOID)


# Types


def result_type(operation: Operation, kind: Rest, given: Sequence[MatrixType]) -> MatrixType:
    """The type of the result; raises InvalidInput for operands that do not fit."""
    count = 2 if isinstance(kind, Binary) else 1
    if len(given) != count:
        name = type(kind).__name__.lower()
        raise InvalidInput(f"{operation.result!r}: {name} has {count} operands, not {len(given)}")
    a = given[0]
    match kind:
        case Unary():
            return MatrixType(a.rows, a.columns, _unary_dtype(operation, kind.function, a))
        case Binary():
            return _binary_type(operation, kind.function, a, given[1])
        case Cast():
            if "complex" in a.dtype and "complex" not in element_type(kind.dtype).name:
                raise InvalidInput(
                    f"{operation.operands[0]!r} is {a.dtype}; as {kind.dtype} it would lose its "
                    "imaginary part"
                )
            return MatrixType(a.rows, a.columns, kind.dtype)
        case Softmax():
            if not a.element.is_float:
                raise InvalidInput(f"softmax needs a real float, not {a.dtype}")
            return a
        case SumAlong():
            return _sum_type(operation, kind, a)
        case Transpose():
            return a.transposed()
        case Slice(rectangle):
            if not rectangle.is_within(a):
                raise InvalidInput(
                    f"{operation.result!r}: {rectangle} is not inside {operation.operands[0]!r}, "
                    f"{a}",
                    field="rectangle",
                )
            return MatrixType(rectangle.rows, rectangle.columns, a.dtype)
        case other:
            assert_never(other)


def _unary_dtype(operation: Operation, function: UnaryFunction, a: MatrixType) -> str:
    name, dtype = operation.operands[0], a.dtype
    if function in _FLOAT_FUNCTIONS and not a.element.is_float:
        raise InvalidInput(f"{function.value} needs a real float; {name!r} is {dtype}")
    if function is UnaryFunction.RELU and (dtype == "bool" or "complex" in dtype):
        raise InvalidInput(f"relu needs real numbers; {name!r} is {dtype}")
    if function is UnaryFunction.NEGATIVE and dtype == "bool":
        raise InvalidInput(f"{name!r} is bool, which has no negative in NumPy")
    is_float = function in (UnaryFunction.EXP, UnaryFunction.TANH)
    return float_for(dtype) if is_float else dtype


def _binary_type(
    operation: Operation, function: BinaryFunction, a: MatrixType, b: MatrixType
) -> MatrixType:
    left, right = operation.operands
    sizes = []
    for one, other in ((a.rows, b.rows), (a.columns, b.columns)):
        if one != other and 1 not in (one, other):
            raise InvalidInput(
                f"{left!r} is {a.rows} x {a.columns} and {right!r} is {b.rows} x {b.columns}: "
                f"{one} and {other} differ and neither is 1"
            )
        sizes.append(other if one == 1 else one)
    dtype = promoted(a.dtype, b.dtype)
    if function is BinaryFunction.SUBTRACT and dtype == "bool":
        raise InvalidInput(f"{left!r} and {right!r} are bool, which NumPy does not subtract")
    if function is BinaryFunction.DIVIDE and element_type(dtype).is_exact:
        dtype = "float64"
    return MatrixType(sizes[0], sizes[1], dtype)


def _sum_type(operation: Operation, kind: SumAlong, a: MatrixType) -> MatrixType:
    if kind.axis not in (0, 1):
        raise InvalidInput(f"{operation.result!r}: axis is {kind.axis}; it may be 0 or 1")
    if kind.block is not None and (kind.axis != 0 or kind.block < 1):
        raise InvalidInput(
            f"{operation.result!r}: block is {kind.block} along axis {kind.axis}; it may be 1 or "
            "more, along axis 0",
            field="block",
        )
    own = _summed(a.dtype)
    wide = "float64" if a.element.is_exact else a.element.compute
    dtype = kind.dtype or own
    # Halves of a sum are float32; the second half makes float16 of them.
    if dtype not in (own, wide) and element_type(dtype).compute != a.dtype:
        raise InvalidInput(
            f"{operation.result!r}: dtype is {dtype!r}; sums of {a.dtype} are {own} or {wide}",
            field="dtype",
        )
    if kind.axis == 1:
        return MatrixType(a.rows, 1, dtype)
    return MatrixType(1 if kind.block is None else -(-a.rows // kind.block), a.columns, dtype)


def _summed(dtype: str) -> str:
    """The dtype of NumPy's sum."""
    if not element_type(dtype).is_exact:
        return dtype
    return "uint64" if dtype.startswith("u") else "int64"


# Blocks


def needed_blocks(
    operation: Operation, kind: Rest, types: Mapping[str, MatrixType], r: Rectangle
) -> Iterator[tuple[str, Rectangle]]:
    """The part of each operand that a rectangle of the result needs."""
    name = operation.operands[0]
    a = types[name]
    match kind:
        case Unary() | Cast():
            yield name, r
        case Binary():
            for side in operation.operands:
                rows = (0, 1) if types[side].rows == 1 else (r.row_start, r.row_stop)
                columns = (r.column_start, r.column_stop)
                yield side, Rectangle(*rows, *((0, 1) if types[side].columns == 1 else columns))
        case Softmax() | SumAlong(axis=1):
            yield name, Rectangle(r.row_start, r.row_stop, 0, a.columns)
        case SumAlong():
            # The one row of all sums needs all rows.
            block = kind.block or max(1, a.rows)
            rows = (r.row_start * block, min(a.rows, r.row_stop * block))
            yield name, Rectangle(*rows, r.column_start, r.column_stop)
        case Transpose():
            yield name, Rectangle(r.column_start, r.column_stop, r.row_start, r.row_stop)
        case Slice(rectangle=of):
            yield (
                name,
                Rectangle(
                    of.row_start + r.row_start,
                    of.row_start + r.row_stop,
                    of.column_start + r.column_start,
                    of.column_start + r.column_stop,
                ),
            )
        case other:
            assert_never(other)


# Work


def passes(kind: Rest, first: MatrixType) -> int:
    """About how many additions one element of the result takes as long as; at least 1."""
    match kind:
        case Unary(function):
            return _FUNCTION_PASSES[function]
        case Softmax():
            return _SOFTMAX_PASSES
        case SumAlong():
            along = first.columns if kind.axis == 1 else min(first.rows, kind.block or first.rows)
            return max(1, along)
        case Transpose():
            return _TRANSPOSE_PASSES
        case Binary() | Cast() | Slice():
            return 1
        case other:
            assert_never(other)
